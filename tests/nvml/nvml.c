/* A stand-in for NVIDIA's NVML, scripted by a file: nvidia-ml-py loads it as libnvidia-ml.so.1 and calls it.
 *
 * The file is that of nvml_standin_file(), or else of NVML_STANDIN: lines of `key value`, read again whenever it has
 * changed. A key without a number before it is the system's; those of GPU 3 begin with `3.`, those of its MIG device 1
 * with `3.mig1.`. Where a function finds no key, it is NOT_SUPPORTED. Before anything else comes `delay.<function>`
 * (seconds), then `fault.<function>` (a return code), of the device or else of the system; a device with `lost 1`
 * answers nothing. Where no file is named, it is as on a machine without a driver. NVML_STANDIN_LOG names a file that
 * gets a line `pid function device` for every call.
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

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { TIMEOUT = 10, LIBRARY_NOT_FOUND = 12, GPU_IS_LOST = 15, MEMORY = 20, VERSION_MISMATCH = 25 };
enum { XID_EVENT = 8, TYPE_DOUBLE = 0, TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { MOST_GPUS = 16, MOST_MIGS = 7, MOST_SAMPLES = 1024, MOST_EVENT_SETS = 64 };
static const unsigned NO_INSTANCE = 0xFFFFFFFF;
static const double GPM_LEAST_S = 0.1;

typedef struct {
    unsigned gpu;
    int mig; /* -1: the GPU itself */
    char name[16]; /* before its keys */
} Device;

typedef struct {
    bool used;
    const Device *device; /* NULL: never taken */
    double taken;
} Sample;

typedef struct {
    bool used, registered[MOST_GPUS];
    size_t delivered[MOST_GPUS];
} EventSet;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* over all that follows */
static Device devices[MOST_GPUS][1 + MOST_MIGS];
static const Device the_system = {0, -1, "-"};
static Sample samples[MOST_SAMPLES];
static EventSet event_sets[MOST_EVENT_SETS];
static unsigned initialised;
static pid_t initialised_in;

#define IS_ONE_OF(array, pointer) \
    ((uintptr_t)(pointer) - (uintptr_t)(array) < sizeof(array) && \
     ((uintptr_t)(pointer) - (uintptr_t)(array)) % sizeof *(pointer) == 0)
#define IS_USED(pool, pointer) (IS_ONE_OF(pool, pointer) && (pointer)->used)

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

/* The script */

typedef struct { char *key, *value; } Entry;

static char *path_given;
static struct {
    char *path, *content;
    Entry *entries;
    size_t count;
    struct stat file;
} script;

void nvml_standin_file(const char *path) {
    lock();
    free(path_given);
    path_given = path ? strdup(path) : NULL;
    unlock();
}

static int by_key(const void *one, const void *other) {
    return strcmp(((const Entry *)one)->key, ((const Entry *)other)->key);
}

static void parse(void) {
    script.entries = calloc((size_t)script.file.st_size + 1, sizeof(Entry));
    char *rest;
    for (char *line = strtok_r(script.content, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *value = strchrnul(line, ' ');
        if (*value)
            *value++ = '\0';
        script.entries[script.count++] = (Entry){line, value};
    }
    qsort(script.entries, script.count, sizeof(Entry), by_key);
}

static bool is_loaded(const char *path) {
    struct stat found;
    return path && script.path && !strcmp(path, script.path) && stat(path, &found) == 0 &&
           found.st_ino == script.file.st_ino && found.st_size == script.file.st_size &&
           !memcmp(&found.st_mtim, &script.file.st_mtim, sizeof found.st_mtim);
}

static const char *script_path(void) { return path_given ? path_given : getenv("NVML_STANDIN"); }

static void load(void) {
    const char *path = script_path();
    if (is_loaded(path))
        return;
    free(script.path);
    free(script.content);
    free(script.entries);
    memset(&script, 0, sizeof script);
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    if (fstat(file, &script.file) == 0) {
        script.content = calloc(1, (size_t)script.file.st_size + 1);
        if (read(file, script.content, (size_t)script.file.st_size) == script.file.st_size) {
            script.path = strdup(path);
            parse();
        }
    }
    close(file);
}

/* What the script says of a device; NULL: nothing. */
__attribute__((format(printf, 2, 3))) static const char *text(const Device *device, const char *format, ...) {
    char key[160];
    int length = device == &the_system ? 0 : snprintf(key, sizeof key, "%s.", device->name);
    va_list values;
    va_start(values, format);
    vsnprintf(key + length, sizeof key - (size_t)length, format, values);
    va_end(values);
    const Entry *found =
        script.count ? bsearch(&(Entry){key, NULL}, script.entries, script.count, sizeof(Entry), by_key) : NULL;
    return found ? found->value : NULL;
}

static unsigned long long whole(const char *value) { return value ? strtoull(value, NULL, 0) : 0; }
static double real(const char *value) { return value ? strtod(value, NULL) : 0; }

/* Devices */

__attribute__((constructor)) static void begin_use(void) {
    pthread_atfork(lock, unlock, unlock);
    for (unsigned gpu = 0; gpu < MOST_GPUS; gpu++)
        for (int mig = -1; mig < MOST_MIGS; mig++) {
            Device *device = &devices[gpu][mig + 1];
            device->gpu = gpu;
            device->mig = mig;
            snprintf(device->name, sizeof device->name, mig < 0 ? "%u" : "%u.mig%d", gpu, mig);
        }
}

static bool exists(const Device *device) {
    const Device *gpu = &devices[device->gpu][0];
    if (device != &the_system && device->gpu >= whole(text(&the_system, "devices")))
        return false;
    return device->mig < 0 ||
           (whole(text(gpu, "mig")) == 1 && (unsigned)device->mig < whole(text(gpu, "migs")) && text(device, "uuid"));
}

static const Device *device_with(const char *uuid) {
    for (const Device *device = &devices[0][0]; device < &devices[MOST_GPUS][0]; device++) {
        const char *own = exists(device) ? text(device, "uuid") : NULL;
        if (own && !strcmp(own, uuid))
            return device;
    }
    return NULL;
}

/* Calls */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void wait_unlocked(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    unlock();
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        continue;
    lock();
    load();
}

static void note(const char *function, const Device *device) {
    const char *path = getenv("NVML_STANDIN_LOG");
    int log = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (log < 0)
        return;
    char line[128];
    int length = snprintf(line, sizeof line, "%d %s %s\n", (int)getpid(), function, device->name);
    if (write(log, line, (size_t)length) != length)
        perror(path);
    close(log);
}

static const char *rule(const Device *device, const char *kind, const char *function) {
    const char *found = text(device, "%s.%s", kind, function);
    return found ? found : text(&the_system, "%s.%s", kind, function);
}

static bool is_initialised(void) { return initialised && initialised_in == getpid(); }

static int refusal(const char *function, const Device *device, bool needs_init) {
    if (needs_init && !is_initialised())
        return UNINITIALIZED;
    if (!exists(device))
        return INVALID_ARGUMENT;
    if (device != &the_system && whole(text(&devices[device->gpu][0], "lost")))
        return GPU_IS_LOST;
    return (int)whole(rule(device, "fault", function));
}

/* The mutex is held after it, until the call returns. */
static int begin(const char *function, const Device *asked, bool needs_init) {
    bool valid = asked == &the_system || IS_ONE_OF(devices, asked);
    const Device *device = valid ? asked : &the_system;
    note(function, device);
    lock();
    load();
    double delay = real(rule(device, "delay", function));
    if (delay > 0)
        wait_unlocked(delay);
    int refused = refusal(function, device, needs_init);
    return refused || valid ? refused : INVALID_ARGUMENT;
}

static void finish(__attribute__((unused)) int *refused) { unlock(); }

#define BEGIN(device, needs_init) \
    __attribute__((cleanup(finish))) int refused = begin(__func__, device, needs_init); \
    if (refused) return refused
#define ON(device) BEGIN(device, true)

#define REQUIRE(condition, code) if (!(condition)) return code
#define READ(out, ...) REQUIRE(text(__VA_ARGS__), NOT_SUPPORTED); *(out) = whole(text(__VA_ARGS__))

#define NUMBER(function, type, key) \
    int function(const Device *device, type *out) { ON(device); READ(out, device, key); return SUCCESS; }
#define ANSWER(function, type, value) \
    int function(const Device *device, type *out) { ON(device); *out = value; return SUCCESS; }
#define NUMBER_OF(function, type, key) \
    int function(const Device *device, unsigned which, type *out) { \
        ON(device); READ(out, device, key, which); return SUCCESS; \
    }

static int copy(const char *value, char *out, unsigned size) {
    REQUIRE(value, NOT_SUPPORTED);
    REQUIRE(strlen(value) < size, INSUFFICIENT_SIZE);
    strcpy(out, value);
    return SUCCESS;
}

#define STRING(function, key) \
    int function(const Device *device, char *out, unsigned size) { \
        ON(device); return copy(text(device, key), out, size); \
    }
#define SYSTEM_STRING(function, key) \
    int function(char *out, unsigned size) { ON(&the_system); return copy(text(&the_system, key), out, size); }

#define POOL(Type, pool, create, destroy) \
    int create(Type **out) { \
        ON(&the_system); \
        Type *one = pool; \
        while (IS_USED(pool, one)) one++; \
        REQUIRE(IS_ONE_OF(pool, one), MEMORY); \
        *one = (Type){.used = true}; \
        *out = one; \
        return SUCCESS; \
    } \
    int destroy(Type *one) { \
        ON(&the_system); \
        REQUIRE(IS_USED(pool, one), INVALID_ARGUMENT); \
        one->used = false; \
        return SUCCESS; \
    }

/* The library */

static int initialise(void) {
    int code = script_path() ? (int)whole(text(&the_system, "init")) : LIBRARY_NOT_FOUND;
    REQUIRE(!code, code);
    if (!is_initialised()) { /* of the process that forked this one nothing is valid here */
        initialised = 0;
        initialised_in = getpid();
        memset(samples, 0, sizeof samples);
        memset(event_sets, 0, sizeof event_sets);
    }
    initialised++;
    return SUCCESS;
}

int nvmlInitWithFlags(__attribute__((unused)) unsigned flags) { BEGIN(&the_system, false); return initialise(); }
int nvmlInit_v2(void) { BEGIN(&the_system, false); return initialise(); }

int nvmlShutdown(void) {
    ON(&the_system);
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    note(__func__, &the_system);
    return code == VERSION_MISMATCH ? "Argument version mismatch" : "Unknown Error"; /* nvidia-ml-py knows the others */
}

SYSTEM_STRING(nvmlSystemGetDriverVersion, "driver")
SYSTEM_STRING(nvmlSystemGetNVMLVersion, "nvml")

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    ON(&the_system);
    READ(out, &the_system, "cuda");
    return SUCCESS;
}

/* Which devices there are */

int nvmlDeviceGetCount_v2(unsigned *out) {
    ON(&the_system);
    *out = whole(text(&the_system, "devices"));
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const Device **out) {
    const Device *device = index < MOST_GPUS ? &devices[index][0] : NULL;
    ON(device);
    *out = device;
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, const Device **out) {
    lock();
    load();
    const Device *device = device_with(uuid);
    unlock();
    ON(device ? device : &the_system);
    REQUIRE(device, NOT_FOUND);
    *out = device;
    return SUCCESS;
}

ANSWER(nvmlDeviceGetIndex, unsigned, device->mig < 0 ? device->gpu : (unsigned)device->mig)

STRING(nvmlDeviceGetName, "name")
STRING(nvmlDeviceGetUUID, "uuid")
STRING(nvmlDeviceGetSerial, "serial")
NUMBER(nvmlDeviceGetMinorNumber, unsigned, "minor")

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(const Device *device, PciInfo *out) {
    ON(device);
    const char *bus = text(device, "bus");
    REQUIRE(bus, NOT_SUPPORTED);
    *out = (PciInfo){.domain = 0};
    sscanf(bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->bus_id_legacy, sizeof out->bus_id_legacy, "%04X:%02X:%02X.0", out->domain & 0xFFFF,
             out->bus & 0xFF, out->device & 0xFF);
    return copy(bus, out->bus_id, sizeof out->bus_id);
}

/* MIG */

int nvmlDeviceGetMigMode(const Device *device, unsigned *current, unsigned *pending) {
    ON(device);
    READ(current, device, "mig");
    *pending = *current;
    return SUCCESS;
}

ANSWER(nvmlDeviceGetMaxMigDeviceCount, unsigned, whole(text(device, "mig")) == 1 ? MOST_MIGS : 0)

int nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, unsigned index, const Device **out) {
    ON(device);
    REQUIRE(device->mig < 0, INVALID_ARGUMENT);
    REQUIRE(index < MOST_MIGS && exists(device + 1 + index), NOT_FOUND);
    *out = device + 1 + index;
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const Device *device, const Device **out) {
    ON(device);
    REQUIRE(device->mig >= 0, INVALID_ARGUMENT);
    *out = &devices[device->gpu][0];
    return SUCCESS;
}

ANSWER(nvmlDeviceIsMigDeviceHandle, unsigned, device->mig >= 0)

NUMBER(nvmlDeviceGetGpuInstanceId, unsigned, "instance")
NUMBER(nvmlDeviceGetComputeInstanceId, unsigned, "compute")

/* What a device is doing */

typedef struct { unsigned gpu, memory; } Utilization;

int nvmlDeviceGetUtilizationRates(const Device *device, Utilization *out) {
    ON(device);
    READ(&out->gpu, device, "utilization.gpu");
    READ(&out->memory, device, "utilization.memory");
    return SUCCESS;
}

#define ENGINE(function, key) \
    int function(const Device *device, unsigned *out, unsigned *period_us) { \
        ON(device); READ(out, device, key); *period_us = 167000; return SUCCESS; \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, "encoder")
ENGINE(nvmlDeviceGetDecoderUtilization, "decoder")

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;

/* The first version counts as used what the driver keeps for itself; the second has it apart. */
int nvmlDeviceGetMemoryInfo(const Device *device, Memory *out) {
    ON(device);
    READ(&out->total, device, "memory.total");
    READ(&out->free, device, "memory.free");
    READ(&out->used, device, "memory.used");
    out->used += whole(text(device, "memory.reserved"));
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(const Device *device, MemoryV2 *out) {
    ON(device);
    REQUIRE(out->version == (2 << 24 | sizeof *out), VERSION_MISMATCH);
    READ(&out->total, device, "memory.total");
    READ(&out->reserved, device, "memory.reserved");
    READ(&out->free, device, "memory.free");
    READ(&out->used, device, "memory.used");
    return SUCCESS;
}

NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy")
NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power.limit")

int nvmlDeviceGetTemperature(const Device *device, unsigned sensor, unsigned *out) {
    ON(device);
    REQUIRE(sensor == 0, INVALID_ARGUMENT);
    READ(out, device, "temperature");
    return SUCCESS;
}

typedef struct { unsigned version, sensor; int temperature; } Temperature;

int nvmlDeviceGetTemperatureV(const Device *device, Temperature *out) {
    ON(device);
    REQUIRE(out->version == (1 << 24 | sizeof *out), VERSION_MISMATCH);
    REQUIRE(out->sensor == 0, INVALID_ARGUMENT);
    READ(&out->temperature, device, "temperature");
    return SUCCESS;
}

NUMBER_OF(nvmlDeviceGetTemperatureThreshold, unsigned, "threshold.%u")
NUMBER(nvmlDeviceGetNumFans, unsigned, "fans")
NUMBER_OF(nvmlDeviceGetFanSpeed_v2, unsigned, "fan.%u")
NUMBER_OF(nvmlDeviceGetClockInfo, unsigned, "clock.%u")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetPerformanceState, unsigned, "pstate")

int nvmlDeviceGetPcieThroughput(const Device *device, unsigned counter, unsigned *out) {
    ON(device);
    REQUIRE(counter < 2, INVALID_ARGUMENT);
    READ(out, device, counter == 0 ? "pcie.tx" : "pcie.rx");
    return SUCCESS;
}

typedef struct {
    unsigned id, scope;
    long long timestamp_us, latency_us;
    unsigned type, code;
    union { double real; unsigned small; unsigned long long large; } value;
} FieldValue;

static int read_field(const Device *device, FieldValue *out) {
    const char *found = text(device, "field.%u.%u", out->id, out->scope);
    found = found ? found : text(device, "field.%u", out->id);
    REQUIRE(found, NOT_SUPPORTED);
    out->timestamp_us = (long long)time(NULL) * 1000000;
    if (!strncmp(found, "u32:", 4)) {
        out->type = TYPE_UNSIGNED_INT;
        out->value.small = whole(found + 4);
    } else if (strchr(found, '.')) {
        out->type = TYPE_DOUBLE;
        out->value.real = real(found);
    } else {
        out->type = TYPE_UNSIGNED_LONG_LONG;
        out->value.large = whole(found);
    }
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(const Device *device, int count, FieldValue *out) {
    ON(device);
    REQUIRE(count > 0, INVALID_ARGUMENT);
    for (int at = 0; at < count; at++)
        out[at].code = read_field(device, &out[at]);
    return SUCCESS;
}

/* Its health */

int nvmlDeviceGetTotalEccErrors(const Device *device, unsigned error, unsigned counter, unsigned long long *out) {
    ON(device);
    READ(out, device, "ecc.%u.%u", error, counter);
    return SUCCESS;
}

int nvmlDeviceGetRetiredPages(const Device *device, unsigned cause, unsigned *count, unsigned long long *addresses) {
    ON(device);
    unsigned size = *count;
    READ(count, device, "retired.%u", cause);
    REQUIRE(*count <= size, INSUFFICIENT_SIZE);
    for (unsigned at = 0; at < *count; at++)
        addresses[at] = 0x10000 * (cause + 1) + 0x1000 * at;
    return SUCCESS;
}

NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, unsigned, "retired.pending")

int nvmlDeviceGetRemappedRows(const Device *device, unsigned *correctable, unsigned *uncorrectable, unsigned *pending,
                              unsigned *failure) {
    ON(device);
    READ(correctable, device, "remapped.correctable");
    READ(uncorrectable, device, "remapped.uncorrectable");
    READ(pending, device, "remapped.pending");
    READ(failure, device, "remapped.failure");
    return SUCCESS;
}

/* Its processes */

typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;

static int list_processes(const Device *device, const char *kind, unsigned *count, Process *out) {
    unsigned size = *count, instance = NO_INSTANCE, compute = NO_INSTANCE;
    if (device->mig >= 0) {
        READ(&instance, device, "instance");
        READ(&compute, device, "compute");
    }
    char prefix[64];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "%s.%s.", device->name, kind);
    *count = 0;
    for (const Entry *entry = script.entries; entry < script.entries + script.count; entry++)
        if (!strncmp(entry->key, prefix, length) && (*count)++ < size)
            *out++ = (Process){whole(entry->key + length), whole(entry->value), instance, compute};
    return *count <= size ? SUCCESS : INSUFFICIENT_SIZE;
}

#define PROCESSES(function, kind) \
    int function(const Device *device, unsigned *count, Process *out) { \
        ON(device); return list_processes(device, kind, count, out); \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "process")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "process")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")

/* GPM */

typedef struct { unsigned version, supported; } GpmSupport;

int nvmlGpmQueryDeviceSupport(const Device *device, GpmSupport *out) {
    ON(device);
    REQUIRE(out->version == 1, VERSION_MISMATCH);
    READ(&out->supported, device, "gpm");
    return SUCCESS;
}

POOL(Sample, samples, nvmlGpmSampleAlloc, nvmlGpmSampleFree)

static int take_sample(const Device *device, Sample *sample) {
    REQUIRE(whole(text(&devices[device->gpu][0], "gpm")) == 1, NOT_SUPPORTED);
    REQUIRE(IS_USED(samples, sample), INVALID_ARGUMENT);
    sample->device = device;
    sample->taken = now();
    return SUCCESS;
}

int nvmlGpmSampleGet(const Device *device, Sample *sample) {
    ON(device);
    return take_sample(device, sample);
}

int nvmlGpmMigSampleGet(const Device *device, unsigned instance, Sample *sample) {
    ON(device);
    REQUIRE(device->mig < 0, INVALID_ARGUMENT);
    for (const Device *mig = device + 1; mig <= device + MOST_MIGS; mig++)
        if (exists(mig) && text(mig, "instance") && whole(text(mig, "instance")) == instance)
            return take_sample(mig, sample);
    return NOT_FOUND;
}

typedef struct { unsigned id, code; double value; const char *short_name, *long_name, *unit; } Metric;
typedef struct { unsigned version, count; Sample *before, *after; Metric metrics[]; } Metrics;

int nvmlGpmMetricsGet(Metrics *asked) {
    const Device *device = IS_USED(samples, asked->after) ? asked->after->device : NULL;
    ON(device ? device : &the_system);
    REQUIRE(asked->version == 1, VERSION_MISMATCH);
    REQUIRE(device && IS_USED(samples, asked->before) && asked->before->device == device, INVALID_ARGUMENT);
    REQUIRE(asked->after->taken - asked->before->taken >= GPM_LEAST_S, INVALID_ARGUMENT);
    for (Metric *metric = asked->metrics; metric < asked->metrics + asked->count; metric++) {
        const char *value = text(device, "gpm.%u", metric->id);
        metric->code = value ? SUCCESS : NOT_SUPPORTED;
        metric->value = real(value);
    }
    return SUCCESS;
}

/* Events: those of `xid`, a list with commas, each once for every set */

POOL(EventSet, event_sets, nvmlEventSetCreate, nvmlEventSetFree)

int nvmlDeviceGetSupportedEventTypes(const Device *device, unsigned long long *out) {
    ON(device);
    REQUIRE(text(device, "xid"), NOT_SUPPORTED);
    *out = XID_EVENT;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(const Device *device, unsigned long long types, EventSet *set) {
    ON(device);
    REQUIRE(IS_USED(event_sets, set), INVALID_ARGUMENT);
    REQUIRE(text(device, "xid") && types == XID_EVENT, NOT_SUPPORTED);
    set->registered[device->gpu] = true;
    return SUCCESS;
}

static const char *item(const char *list, size_t position) {
    while (list && position-- > 0) {
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
    return list && *list ? list : NULL;
}

typedef struct { const Device *device; unsigned long long type, data; unsigned instance, compute; } Event;

static bool next_event(EventSet *set, Event *out) {
    for (unsigned gpu = 0; gpu < MOST_GPUS; gpu++) {
        const Device *device = &devices[gpu][0];
        const char *xid = set->registered[gpu] ? item(text(device, "xid"), set->delivered[gpu]) : NULL;
        if (xid) {
            set->delivered[gpu]++;
            *out = (Event){device, XID_EVENT, whole(xid), NO_INSTANCE, NO_INSTANCE};
            return true;
        }
    }
    return false;
}

int nvmlEventSetWait_v2(EventSet *set, Event *out, unsigned timeout_ms) {
    double until = now() + timeout_ms / 1e3;
    ON(&the_system);
    while (IS_USED(event_sets, set)) {
        if (next_event(set, out))
            return SUCCESS;
        REQUIRE(now() < until, TIMEOUT);
        wait_unlocked(0.005);
    }
    return INVALID_ARGUMENT;
}
