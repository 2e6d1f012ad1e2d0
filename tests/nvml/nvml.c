/* A stand-in for NVIDIA's NVML, scripted by a file: nvidia-ml-py loads it as libnvidia-ml.so.1 and calls it.
 *
 * The file is that of nvml_standin_file(), or else of NVML_STANDIN: lines of `key value`, read again whenever it has
 * changed. A key without a device is the system's, one of GPU 3 begins with `3.`, one of its MIG device 1 with `3.mig1.`.
 * What a key says is returned as it stands; where there is none, NOT_SUPPORTED is. Of every function,
 * `delay.<function>` (seconds) and `fault.<function>` (a return code) come first, of the device or else of the system.
 * NVML_STANDIN_LOG names a file which gets a line `pid function device` for every call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    MEMORY = 20,
    VERSION_MISMATCH = 25
};

enum { MOST_GPUS = 16, MOST_MIGS = 7, MOST_SAMPLES = 1024, MOST_EVENT_SETS = 64 };

static const unsigned NO_INSTANCE = 0xFFFFFFFF;
static const unsigned long long XID_EVENT = 8;
static const double GPM_LEAST_S = 0.1;

typedef struct {
    unsigned gpu;
    int mig; /* -1: the GPU itself */
    char prefix[16];
} Device;

typedef struct {
    bool used;
    const Device *device; /* NULL: never taken */
    double taken;
} Sample;

typedef struct {
    bool used;
    bool registered[MOST_GPUS];
    size_t delivered[MOST_GPUS];
} EventSet;

typedef struct {
    char *key, *value;
} Entry;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Device devices[MOST_GPUS][1 + MOST_MIGS];
static const Device whole_system = {0, -1, "-"};
static Sample samples[MOST_SAMPLES];
static EventSet event_sets[MOST_EVENT_SETS];
static unsigned initialised;
static pid_t initialised_in;

/* The script */

static char *path_given, *path_loaded, *content;
static Entry *entries;
static size_t entry_count;
static struct stat loaded;

static int by_key(const void *one, const void *other)
{
    return strcmp(((const Entry *)one)->key, ((const Entry *)other)->key);
}

static void forget_script(void)
{
    free(content);
    free(entries);
    free(path_loaded);
    content = path_loaded = NULL;
    entries = NULL;
    entry_count = 0;
}

static void parse(void)
{
    size_t lines = 1;
    for (const char *at = content; *at; at++)
        lines += *at == '\n';
    entries = calloc(lines, sizeof *entries);
    char *rest;
    for (char *line = strtok_r(content, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (space)
            *space = '\0';
        entries[entry_count++] = (Entry){line, space ? space + 1 : line + strlen(line)};
    }
    qsort(entries, entry_count, sizeof *entries, by_key);
}

static bool unchanged(const char *path, const struct stat *now)
{
    return path_loaded && !strcmp(path_loaded, path) && loaded.st_ino == now->st_ino &&
           loaded.st_size == now->st_size && loaded.st_mtim.tv_sec == now->st_mtim.tv_sec &&
           loaded.st_mtim.tv_nsec == now->st_mtim.tv_nsec;
}

/* Under the mutex, as everything that looks at the script. */
static void load(void)
{
    const char *path = path_given ? path_given : getenv("NVML_STANDIN");
    struct stat now;
    if (path && stat(path, &now) == 0 && unchanged(path, &now))
        return;
    forget_script();
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    if (fstat(file, &loaded) == 0) {
        content = calloc(1, (size_t)loaded.st_size + 1);
        if (read(file, content, (size_t)loaded.st_size) == loaded.st_size) {
            path_loaded = strdup(path);
            parse();
        }
    }
    close(file);
}

void nvml_standin_file(const char *path)
{
    pthread_mutex_lock(&mutex);
    free(path_given);
    path_given = path ? strdup(path) : NULL;
    pthread_mutex_unlock(&mutex);
}

/* What the script says of a device; NULL: nothing. */
__attribute__((format(printf, 2, 3))) static const char *text(const Device *device, const char *format, ...)
{
    char key[160];
    int length = device == &whole_system ? 0 : snprintf(key, sizeof key, "%s.", device->prefix);
    va_list values;
    va_start(values, format);
    vsnprintf(key + length, sizeof key - (size_t)length, format, values);
    va_end(values);
    const Entry wanted = {key, NULL};
    const Entry *found = entry_count ? bsearch(&wanted, entries, entry_count, sizeof wanted, by_key) : NULL;
    return found ? found->value : NULL;
}

static unsigned long long whole(const char *value)
{
    return value ? strtoull(value, NULL, 0) : 0;
}

static double real(const char *value)
{
    return value ? strtod(value, NULL) : 0;
}

/* Devices */

__attribute__((constructor)) static void name_devices(void)
{
    for (unsigned gpu = 0; gpu < MOST_GPUS; gpu++)
        for (int mig = -1; mig < MOST_MIGS; mig++) {
            Device *device = &devices[gpu][mig + 1];
            device->gpu = gpu;
            device->mig = mig;
            snprintf(device->prefix, sizeof device->prefix, mig < 0 ? "%u" : "%u.mig%d", gpu, mig);
        }
}

static const Device *gpu_of(const Device *device)
{
    return device == &whole_system ? device : &devices[device->gpu][0];
}

static bool is_handle(const Device *device)
{
    uintptr_t offset = (uintptr_t)device - (uintptr_t)devices;
    return device == &whole_system || (offset < sizeof devices && offset % sizeof(Device) == 0);
}

static bool exists(const Device *device)
{
    if (device == &whole_system)
        return true;
    if (device->gpu >= whole(text(&whole_system, "devices")))
        return false;
    const Device *gpu = gpu_of(device);
    return device->mig < 0 ||
           (whole(text(gpu, "mig")) == 1 && (unsigned)device->mig < whole(text(gpu, "migs")) && text(device, "uuid"));
}

static const Device *device_with(const char *uuid)
{
    for (const Device *device = &devices[0][0]; device < &devices[MOST_GPUS][0]; device++) {
        const char *own = exists(device) ? text(device, "uuid") : NULL;
        if (own && !strcmp(own, uuid))
            return device;
    }
    return NULL;
}

/* Calls */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void wait_for(double seconds)
{
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        continue;
}

static void note(const char *function, const Device *device)
{
    const char *path = getenv("NVML_STANDIN_LOG");
    int log = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (log < 0)
        return;
    char line[128];
    int length = snprintf(line, sizeof line, "%d %s %s\n", (int)getpid(), function, device->prefix);
    if (write(log, line, (size_t)length) != length)
        perror("NVML_STANDIN_LOG");
    close(log);
}

static const char *rule(const Device *device, const char *kind, const char *function)
{
    const char *found = text(device, "%s.%s", kind, function);
    return found ? found : text(&whole_system, "%s.%s", kind, function);
}

static bool is_initialised(void)
{
    return initialised && initialised_in == getpid();
}

/* After SUCCESS the mutex is held, until end(). */
static int begin(const char *function, const Device *asked, bool needs_init)
{
    const Device *device = is_handle(asked) ? asked : &whole_system;
    note(function, device);
    pthread_mutex_lock(&mutex);
    load();
    double delay = real(rule(device, "delay", function));
    if (delay > 0) {
        pthread_mutex_unlock(&mutex);
        wait_for(delay);
        pthread_mutex_lock(&mutex);
        load();
    }
    int code = (int)whole(rule(device, "fault", function));
    if (needs_init && !is_initialised())
        code = UNINITIALIZED;
    else if (device != asked || !exists(device))
        code = INVALID_ARGUMENT;
    else if (device != &whole_system && whole(text(gpu_of(device), "lost")))
        code = GPU_IS_LOST;
    if (code)
        pthread_mutex_unlock(&mutex);
    return code;
}

static int end(int code)
{
    pthread_mutex_unlock(&mutex);
    return code;
}

#define BEGIN(device, needs_init) \
    do { \
        int refused = begin(__func__, device, needs_init); \
        if (refused) \
            return refused; \
    } while (0)
#define ON(device) BEGIN(device, true)
#define ON_SYSTEM() BEGIN(&whole_system, true)

/* Returns from the function where the script is silent. */
#define READ(out, ...) \
    do { \
        const char *value_read = text(__VA_ARGS__); \
        if (!value_read) \
            return end(NOT_SUPPORTED); \
        *(out) = whole(value_read); \
    } while (0)

#define REQUIRE(condition, code) \
    do { \
        if (!(condition)) \
            return end(code); \
    } while (0)

#define NUMBER(function, type, key) \
    int function(const Device *device, type *out) \
    { \
        ON(device); \
        READ(out, device, key); \
        return end(SUCCESS); \
    }

#define NUMBER_OF(function, type, key) \
    int function(const Device *device, unsigned which, type *out) \
    { \
        ON(device); \
        READ(out, device, key, which); \
        return end(SUCCESS); \
    }

static int copy(const char *value, char *out, unsigned size)
{
    REQUIRE(value, NOT_SUPPORTED);
    REQUIRE(strlen(value) < size, INSUFFICIENT_SIZE);
    strcpy(out, value);
    return end(SUCCESS);
}

#define STRING(function, key) \
    int function(const Device *device, char *out, unsigned size) \
    { \
        ON(device); \
        return copy(text(device, key), out, size); \
    }

#define SYSTEM_STRING(function, key) \
    int function(char *out, unsigned size) \
    { \
        ON_SYSTEM(); \
        return copy(text(&whole_system, key), out, size); \
    }

/* The library */

static void lock(void)
{
    pthread_mutex_lock(&mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

__attribute__((constructor)) static void survive_forks(void)
{
    pthread_atfork(lock, unlock, unlock);
}

static int initialise(void)
{
    int code = (int)whole(text(&whole_system, "init"));
    if (!code) {
        initialised = is_initialised() ? initialised + 1 : 1;
        initialised_in = getpid();
    }
    return end(code);
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    BEGIN(&whole_system, false);
    return initialise();
}

int nvmlInit_v2(void)
{
    BEGIN(&whole_system, false);
    return initialise();
}

int nvmlShutdown(void)
{
    ON_SYSTEM();
    if (--initialised == 0) {
        memset(samples, 0, sizeof samples);
        memset(event_sets, 0, sizeof event_sets);
    }
    return end(SUCCESS);
}

const char *nvmlErrorString(int code)
{
    static const char *const known[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires restart", "The operating system has blocked the request",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "The requested vgpu operation is not available on target device, because ECC is enabled",
        "Insufficient Resources", "Frequency Not Supported", "Argument version mismatch", "Deprecated", "Not Ready",
        "GPU not found",
    };
    note(__func__, &whole_system);
    return code >= 0 && (size_t)code < sizeof known / sizeof *known ? known[code] : "Unknown Error";
}

SYSTEM_STRING(nvmlSystemGetDriverVersion, "driver")
SYSTEM_STRING(nvmlSystemGetNVMLVersion, "nvml")

int nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    ON_SYSTEM();
    READ(out, &whole_system, "cuda");
    return end(SUCCESS);
}

/* Which devices there are */

int nvmlDeviceGetCount_v2(unsigned *out)
{
    ON_SYSTEM();
    *out = (unsigned)whole(text(&whole_system, "devices"));
    return end(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const Device **out)
{
    const Device *device = index < MOST_GPUS ? &devices[index][0] : NULL;
    ON(device);
    *out = device;
    return end(SUCCESS);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, const Device **out)
{
    lock();
    load();
    const Device *device = device_with(uuid);
    unlock();
    ON(device ? device : &whole_system);
    REQUIRE(device, NOT_FOUND);
    *out = device;
    return end(SUCCESS);
}

int nvmlDeviceGetIndex(const Device *device, unsigned *out)
{
    ON(device);
    *out = device->mig < 0 ? device->gpu : (unsigned)device->mig;
    return end(SUCCESS);
}

STRING(nvmlDeviceGetName, "name")
STRING(nvmlDeviceGetUUID, "uuid")
STRING(nvmlDeviceGetSerial, "serial")
NUMBER(nvmlDeviceGetMinorNumber, unsigned, "minor")

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(const Device *device, PciInfo *out)
{
    ON(device);
    const char *bus = text(device, "bus");
    REQUIRE(bus, NOT_SUPPORTED);
    memset(out, 0, sizeof *out);
    REQUIRE(sscanf(bus, "%x:%x:%x", &out->domain, &out->bus, &out->device) == 3, INVALID_ARGUMENT);
    snprintf(out->bus_id, sizeof out->bus_id, "%s", bus);
    snprintf(out->bus_id_legacy, sizeof out->bus_id_legacy, "%04X:%02X:%02X.0", out->domain & 0xFFFF, out->bus & 0xFF,
             out->device & 0xFF);
    return end(SUCCESS);
}

/* MIG */

int nvmlDeviceGetMigMode(const Device *device, unsigned *current, unsigned *pending)
{
    ON(device);
    READ(current, device, "mig");
    *pending = *current;
    return end(SUCCESS);
}

int nvmlDeviceGetMaxMigDeviceCount(const Device *device, unsigned *out)
{
    ON(device);
    *out = whole(text(device, "mig")) == 1 ? MOST_MIGS : 0;
    return end(SUCCESS);
}

int nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, unsigned index, const Device **out)
{
    ON(device);
    REQUIRE(device->mig < 0, INVALID_ARGUMENT);
    const Device *found = index < MOST_MIGS ? &devices[device->gpu][index + 1] : NULL;
    REQUIRE(found && exists(found), NOT_FOUND);
    *out = found;
    return end(SUCCESS);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const Device *device, const Device **out)
{
    ON(device);
    REQUIRE(device->mig >= 0, INVALID_ARGUMENT);
    *out = gpu_of(device);
    return end(SUCCESS);
}

int nvmlDeviceIsMigDeviceHandle(const Device *device, unsigned *out)
{
    ON(device);
    *out = device->mig >= 0;
    return end(SUCCESS);
}

NUMBER(nvmlDeviceGetGpuInstanceId, unsigned, "instance")
NUMBER(nvmlDeviceGetComputeInstanceId, unsigned, "compute")

/* What a device is doing */

typedef struct {
    unsigned gpu, memory;
} Utilization;

int nvmlDeviceGetUtilizationRates(const Device *device, Utilization *out)
{
    ON(device);
    READ(&out->gpu, device, "utilization.gpu");
    READ(&out->memory, device, "utilization.memory");
    return end(SUCCESS);
}

#define ENGINE(function, key) \
    int function(const Device *device, unsigned *out, unsigned *period) \
    { \
        ON(device); \
        READ(out, device, key); \
        *period = 167000; \
        return end(SUCCESS); \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, "encoder")
ENGINE(nvmlDeviceGetDecoderUtilization, "decoder")

typedef struct {
    unsigned long long total, free, used;
} Memory;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;

/* The first version counts as used what the driver keeps for itself; the second has it apart. */
int nvmlDeviceGetMemoryInfo(const Device *device, Memory *out)
{
    ON(device);
    READ(&out->total, device, "memory.total");
    READ(&out->free, device, "memory.free");
    READ(&out->used, device, "memory.used");
    out->used += whole(text(device, "memory.reserved"));
    return end(SUCCESS);
}

int nvmlDeviceGetMemoryInfo_v2(const Device *device, MemoryV2 *out)
{
    ON(device);
    REQUIRE(out->version == (2 << 24 | sizeof *out), VERSION_MISMATCH);
    READ(&out->total, device, "memory.total");
    READ(&out->reserved, device, "memory.reserved");
    READ(&out->free, device, "memory.free");
    READ(&out->used, device, "memory.used");
    return end(SUCCESS);
}

NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy")
NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power.limit")

int nvmlDeviceGetTemperature(const Device *device, unsigned sensor, unsigned *out)
{
    ON(device);
    REQUIRE(sensor == 0, INVALID_ARGUMENT);
    READ(out, device, "temperature");
    return end(SUCCESS);
}

typedef struct {
    unsigned version, sensor;
    int temperature;
} TemperatureV1;

int nvmlDeviceGetTemperatureV(const Device *device, TemperatureV1 *out)
{
    ON(device);
    REQUIRE(out->version == (1 << 24 | sizeof *out), VERSION_MISMATCH);
    REQUIRE(out->sensor == 0, INVALID_ARGUMENT);
    READ(&out->temperature, device, "temperature");
    return end(SUCCESS);
}

NUMBER_OF(nvmlDeviceGetTemperatureThreshold, unsigned, "threshold.%u")
NUMBER(nvmlDeviceGetNumFans, unsigned, "fans")
NUMBER_OF(nvmlDeviceGetFanSpeed_v2, unsigned, "fan.%u")
NUMBER_OF(nvmlDeviceGetClockInfo, unsigned, "clock.%u")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetPerformanceState, unsigned, "pstate")

int nvmlDeviceGetPcieThroughput(const Device *device, unsigned counter, unsigned *out)
{
    ON(device);
    REQUIRE(counter < 2, INVALID_ARGUMENT);
    READ(out, device, counter == 0 ? "pcie.tx" : "pcie.rx");
    return end(SUCCESS);
}

typedef struct {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type, code;
    union {
        double real;
        unsigned small;
        unsigned long long large;
    } value;
} FieldValue;

enum { TYPE_DOUBLE = 0, TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

static void fill_field(const Device *device, FieldValue *out)
{
    const char *found = text(device, "field.%u.%u", out->id, out->scope);
    if (!found)
        found = text(device, "field.%u", out->id);
    out->timestamp = (long long)time(NULL) * 1000000;
    out->code = found ? SUCCESS : NOT_SUPPORTED;
    if (!found)
        return;
    if (!strncmp(found, "u32:", 4)) {
        out->type = TYPE_UNSIGNED_INT;
        out->value.small = (unsigned)whole(found + 4);
    } else if (strchr(found, '.')) {
        out->type = TYPE_DOUBLE;
        out->value.real = real(found);
    } else {
        out->type = TYPE_UNSIGNED_LONG_LONG;
        out->value.large = whole(found);
    }
}

int nvmlDeviceGetFieldValues(const Device *device, int count, FieldValue *out)
{
    ON(device);
    REQUIRE(count > 0, INVALID_ARGUMENT);
    for (int at = 0; at < count; at++)
        fill_field(device, &out[at]);
    return end(SUCCESS);
}

/* Its health */

int nvmlDeviceGetTotalEccErrors(const Device *device, unsigned error, unsigned counter, unsigned long long *out)
{
    ON(device);
    READ(out, device, "ecc.%u.%u", error, counter);
    return end(SUCCESS);
}

static int list_pages(const Device *device, unsigned cause, unsigned *count, unsigned long long *pages,
                      unsigned long long *times)
{
    unsigned size = *count;
    READ(count, device, "retired.%u", cause);
    REQUIRE(*count <= size, INSUFFICIENT_SIZE);
    for (unsigned at = 0; at < *count; at++) {
        pages[at] = 0x10000ULL * (cause + 1) + 0x1000ULL * at;
        if (times)
            times[at] = 1700000000ULL + at;
    }
    return end(SUCCESS);
}

int nvmlDeviceGetRetiredPages(const Device *device, unsigned cause, unsigned *count, unsigned long long *pages)
{
    ON(device);
    return list_pages(device, cause, count, pages, NULL);
}

int nvmlDeviceGetRetiredPages_v2(const Device *device, unsigned cause, unsigned *count, unsigned long long *pages,
                                 unsigned long long *times)
{
    ON(device);
    return list_pages(device, cause, count, pages, times);
}

NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, unsigned, "retired.pending")

int nvmlDeviceGetRemappedRows(const Device *device, unsigned *correctable, unsigned *uncorrectable, unsigned *pending,
                              unsigned *failure)
{
    ON(device);
    READ(correctable, device, "remapped.correctable");
    READ(uncorrectable, device, "remapped.uncorrectable");
    READ(pending, device, "remapped.pending");
    READ(failure, device, "remapped.failure");
    return end(SUCCESS);
}

/* Its processes */

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned instance, compute;
} ProcessInfo;

static int list_processes(const Device *device, const char *kind, unsigned *count, ProcessInfo *out)
{
    char prefix[64];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "%s.%s.", device->prefix, kind);
    unsigned size = *count;
    *count = 0;
    for (const Entry *entry = entries; entry < entries + entry_count; entry++) {
        if (strncmp(entry->key, prefix, length))
            continue;
        if (*count < size)
            out[*count] = (ProcessInfo){
                (unsigned)whole(entry->key + length), whole(entry->value),
                device->mig < 0 ? NO_INSTANCE : (unsigned)whole(text(device, "instance")),
                device->mig < 0 ? NO_INSTANCE : (unsigned)whole(text(device, "compute"))};
        ++*count;
    }
    return end(*count <= size ? SUCCESS : INSUFFICIENT_SIZE);
}

#define PROCESSES(function, kind) \
    int function(const Device *device, unsigned *count, ProcessInfo *out) \
    { \
        ON(device); \
        return list_processes(device, kind, count, out); \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "process")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "process")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")

/* GPM */

typedef struct {
    unsigned id, code;
    double value;
    const char *short_name, *long_name, *unit;
} Metric;

typedef struct {
    unsigned version, count;
    Sample *before, *after;
    Metric metrics[];
} MetricsGet;

typedef struct {
    unsigned version, supported;
} GpmSupport;

static bool is_sample(const Sample *sample)
{
    uintptr_t offset = (uintptr_t)sample - (uintptr_t)samples;
    return offset < sizeof samples && offset % sizeof *samples == 0 && sample->used;
}

int nvmlGpmQueryDeviceSupport(const Device *device, GpmSupport *out)
{
    ON(device);
    REQUIRE(out->version == 1, VERSION_MISMATCH);
    READ(&out->supported, device, "gpm");
    return end(SUCCESS);
}

int nvmlGpmSampleAlloc(Sample **out)
{
    ON_SYSTEM();
    Sample *sample = samples;
    while (sample < samples + MOST_SAMPLES && sample->used)
        sample++;
    REQUIRE(sample < samples + MOST_SAMPLES, MEMORY);
    *sample = (Sample){.used = true};
    *out = sample;
    return end(SUCCESS);
}

int nvmlGpmSampleFree(Sample *sample)
{
    ON_SYSTEM();
    REQUIRE(is_sample(sample), INVALID_ARGUMENT);
    sample->used = false;
    return end(SUCCESS);
}

static int take(const Device *of, Sample *sample)
{
    REQUIRE(whole(text(gpu_of(of), "gpm")) == 1, NOT_SUPPORTED);
    REQUIRE(is_sample(sample), INVALID_ARGUMENT);
    sample->device = of;
    sample->taken = now();
    return end(SUCCESS);
}

int nvmlGpmSampleGet(const Device *device, Sample *sample)
{
    ON(device);
    return take(device, sample);
}

int nvmlGpmMigSampleGet(const Device *device, unsigned instance, Sample *sample)
{
    ON(device);
    REQUIRE(device->mig < 0, INVALID_ARGUMENT);
    for (const Device *mig = device + 1; mig <= device + MOST_MIGS; mig++) {
        const char *own = exists(mig) ? text(mig, "instance") : NULL;
        if (own && whole(own) == instance)
            return take(mig, sample);
    }
    return end(NOT_FOUND);
}

int nvmlGpmMetricsGet(MetricsGet *asked)
{
    const Device *device = is_sample(asked->after) ? asked->after->device : NULL;
    ON(device ? device : &whole_system);
    REQUIRE(asked->version == 1, VERSION_MISMATCH);
    REQUIRE(device && is_sample(asked->before) && asked->before->device == device, INVALID_ARGUMENT);
    REQUIRE(asked->after->taken - asked->before->taken >= GPM_LEAST_S, INVALID_ARGUMENT);
    for (Metric *metric = asked->metrics; metric < asked->metrics + asked->count; metric++) {
        const char *value = text(device, "gpm.%u", metric->id);
        metric->code = value ? SUCCESS : NOT_SUPPORTED;
        metric->value = real(value);
    }
    return end(SUCCESS);
}

/* Events */

typedef struct {
    const Device *device;
    unsigned long long type, data;
    unsigned instance, compute;
} EventData;

static bool is_event_set(const EventSet *set)
{
    uintptr_t offset = (uintptr_t)set - (uintptr_t)event_sets;
    return offset < sizeof event_sets && offset % sizeof *event_sets == 0 && set->used;
}

int nvmlEventSetCreate(EventSet **out)
{
    ON_SYSTEM();
    EventSet *set = event_sets;
    while (set < event_sets + MOST_EVENT_SETS && set->used)
        set++;
    REQUIRE(set < event_sets + MOST_EVENT_SETS, MEMORY);
    *set = (EventSet){.used = true};
    *out = set;
    return end(SUCCESS);
}

int nvmlEventSetFree(EventSet *set)
{
    ON_SYSTEM();
    REQUIRE(is_event_set(set), INVALID_ARGUMENT);
    set->used = false;
    return end(SUCCESS);
}

int nvmlDeviceGetSupportedEventTypes(const Device *device, unsigned long long *out)
{
    ON(device);
    REQUIRE(text(device, "xid"), NOT_SUPPORTED);
    *out = XID_EVENT;
    return end(SUCCESS);
}

int nvmlDeviceRegisterEvents(const Device *device, unsigned long long types, EventSet *set)
{
    ON(device);
    REQUIRE(is_event_set(set), INVALID_ARGUMENT);
    REQUIRE(text(device, "xid") && types == XID_EVENT, NOT_SUPPORTED);
    set->registered[device->gpu] = true;
    return end(SUCCESS);
}

/* Of a list with commas, NULL where it ends before. */
static const char *item(const char *list, size_t position)
{
    while (list && position-- > 0) {
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
    return list && *list ? list : NULL;
}

static bool next_event(EventSet *set, EventData *out)
{
    for (unsigned gpu = 0; gpu < MOST_GPUS; gpu++) {
        const Device *device = &devices[gpu][0];
        const char *xid = set->registered[gpu] ? item(text(device, "xid"), set->delivered[gpu]) : NULL;
        if (xid) {
            set->delivered[gpu]++;
            *out = (EventData){device, XID_EVENT, whole(xid), NO_INSTANCE, NO_INSTANCE};
            return true;
        }
    }
    return false;
}

int nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_ms)
{
    double until = now() + timeout_ms / 1e3;
    ON_SYSTEM();
    while (true) {
        REQUIRE(is_event_set(set), INVALID_ARGUMENT);
        if (next_event(set, out))
            return end(SUCCESS);
        REQUIRE(now() < until, TIMEOUT);
        unlock();
        wait_for(0.005);
        lock();
        load();
    }
}
