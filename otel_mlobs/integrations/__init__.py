"""One third-party library a module; each is imported only when it is asked for."""
