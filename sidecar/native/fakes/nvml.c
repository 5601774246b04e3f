/* A libnvidia-ml.so.1 without a GPU behind it: it answers as the driver library does, about the GPUs that house.h tells of.
 *
 * Structures are laid out as in nvml.h.
 */
#define _GNU_SOURCE
#include "house.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum { MAX_SETS = 64, WAIT_STEP_MS = 10 };

static const struct { int code; const char *text; } errors[] = {
	{0, "Success"}, {1, "Uninitialized"}, {2, "Invalid Argument"}, {3, "Not Supported"}, {4, "Insufficient Permissions"}, {5, "Already Initialized"},
	{6, "Not Found"}, {7, "Insufficient Size"}, {8, "Insufficient External Power"}, {9, "Driver Not Loaded"}, {10, "Timeout"},
	{11, "Interrupt Request Issue"}, {12, "NVML Shared Library Not Found"}, {13, "Function Not Found"}, {14, "Corrupted infoROM"},
	{15, "GPU is lost"}, {16, "GPU requires restart"}, {17, "The operating system has blocked the request."},
	{18, "RM has detected an NVML/RM version mismatch."}, {19, "In use"}, {20, "Insufficient Memory"}, {21, "No data"},
	{23, "Insufficient Resources"}, {25, "Argument version mismatch"}, {27, "Not ready"}, {28, "GPU not found"}, {999, "Unknown Error"},
};

/* --- structures of nvml.h --- */
typedef void *device_t;
typedef void *event_set_t;
typedef struct { uint64_t total, free, used; } memory_t;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_v2_t;
typedef struct { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; } process_info_t;
typedef struct { uint32_t gpu, memory; } utilization_t;
typedef struct { uint32_t pid; uint64_t at; uint32_t sm, memory, encoder, decoder; } process_sample_t;
typedef struct { uint64_t at; uint32_t pid, sm, memory, encoder, decoder, jpeg, ofa; } process_util_t;
typedef struct { uint32_t version, count; uint64_t last_seen; process_util_t *samples; } processes_util_t;
typedef struct { device_t device; uint64_t type, data; uint32_t gpu_instance, compute_instance; } event_data_t;
typedef struct { uint32_t field, scope; int64_t at, latency; uint32_t type; result_t result; uint64_t value; } field_value_t;
typedef struct { char legacy[16]; uint32_t domain, bus, device, device_id, subsystem_id; char bus_id[32]; } pci_info_t;
_Static_assert(sizeof(field_value_t) == 40 && sizeof(memory_v2_t) == 40 && sizeof(process_info_t) == 24 && sizeof(event_data_t) == 32 && sizeof(pci_info_t) == 68, "as in nvml.h");
#define MEMORY_V2 (sizeof(memory_v2_t) | 2u << 24)
#define PROCESSES_UTIL_V1 (sizeof(processes_util_t) | 1u << 24)
#define XID_CRITICAL_ERROR 8ull
#define FIELD_RECOVERY_ACTION 230u
#define VALUE_UNSIGNED 1u
#define NO_INSTANCE 0xFFFFFFFFu

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned initialized;
static struct { bool used; uint64_t since[MAX_KNOWN]; bool registered[MAX_KNOWN]; } sets[MAX_SETS];

/* --- what every call begins and ends with --- */
static result_t enter(void) {
	pthread_mutex_lock(&lock);
	return initialized ? look() : UNINITIALIZED;
}

static result_t leave(result_t result) {
	pthread_mutex_unlock(&lock);
	return result;
}

static device_t handle_of(const gpu_t *gpu) {
	unsigned k = 0;
	while (strcmp(known[k], gpu->uuid) != 0) k++;
	return (device_t)(uintptr_t)(k + 1);
}

/* Enter, and find the GPU of `device`. After it, `leave` must follow whatever it returned. */
static result_t enter_gpu(device_t device, gpu_t **gpu) {
	result_t result = enter();
	if (result != SUCCESS) return result;
	uintptr_t place = (uintptr_t)device;
	if (place == 0 || place > known_count) return INVALID_ARGUMENT;
	for (uint32_t i = 0; i < house.gpu_count; i++)
		if (strcmp(house.gpus[i].uuid, known[place - 1]) == 0) {
			*gpu = &house.gpus[i];
			return house.gpus[i].error;
		}
	return GPU_IS_LOST;
}

static result_t put(const char *text, char *into, unsigned size) {
	if (into == NULL) return INVALID_ARGUMENT;
	if (strlen(text) >= size) return INSUFFICIENT_SIZE;
	memcpy(into, text, strlen(text) + 1);
	return SUCCESS;
}

static uint32_t index_of(const gpu_t *gpu) { return (uint32_t)(gpu - house.gpus); }

static void bus_id(const gpu_t *gpu, char into[32]) { snprintf(into, 32, "00000000:%02X:00.0", index_of(gpu) + 1); }

/* --- the library --- */
EXPORT result_t nvmlInitWithFlags(unsigned flags) {
	(void)flags;
	pthread_mutex_lock(&lock);
	result_t result = look();
	if (result == SUCCESS) initialized++;
	return leave(result);
}

EXPORT result_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT result_t nvmlShutdown(void) {
	pthread_mutex_lock(&lock);
	if (initialized == 0) return leave(UNINITIALIZED);
	initialized--;
	return leave(SUCCESS);
}

EXPORT const char *nvmlErrorString(int code) {
	for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].code == code) return errors[i].text;
	return "Unknown Error";
}

EXPORT result_t nvmlSystemGetDriverVersion(char *version, unsigned size) {
	result_t result = enter();
	return leave(result == SUCCESS ? put(house.version, version, size) : result);
}

EXPORT result_t nvmlSystemGetNVMLVersion(char *version, unsigned size) { return put("13.615.00" MARKER, version, size); }

EXPORT result_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
	result_t result = enter();
	if (result == SUCCESS && version == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *version = (int)house.cuda;
	return leave(result);
}

EXPORT result_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

EXPORT result_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size) {
	char path[64], text[64] = "";
	snprintf(path, sizeof path, "/proc/%u/comm", pid);
	FILE *stream = fopen(path, "re");
	if (stream == NULL) return NOT_FOUND;
	if (fgets(text, sizeof text, stream) != NULL) text[strcspn(text, "\n")] = '\0';
	fclose(stream);
	return put(text, name, size);
}

EXPORT result_t nvmlDeviceGetCount_v2(unsigned *count) {
	result_t result = enter();
	if (result == SUCCESS && count == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *count = house.gpu_count;
	return leave(result);
}

EXPORT result_t nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
	result_t result = enter();
	if (result == SUCCESS && (device == NULL || index >= house.gpu_count)) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *device = handle_of(&house.gpus[index]);
	return leave(result);
}

static result_t handle_by(const char *text, bool by_bus, device_t *device) {
	result_t result = enter();
	if (result != SUCCESS) return leave(result);
	if (text == NULL || device == NULL) return leave(INVALID_ARGUMENT);
	for (uint32_t i = 0; i < house.gpu_count; i++) {
		char bus[32];
		bus_id(&house.gpus[i], bus);
		/* Domains have eight digits here and commonly four elsewhere. */
		bool same = by_bus ? strcasecmp(text, bus) == 0 || strcasecmp(text, bus + 4) == 0 : strcmp(text, house.gpus[i].uuid) == 0;
		if (!same) continue;
		*device = handle_of(&house.gpus[i]);
		return leave(SUCCESS);
	}
	return leave(NOT_FOUND);
}

EXPORT result_t nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) { return handle_by(uuid, false, device); }

EXPORT result_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, device_t *device) { return handle_by(bus, true, device); }

EXPORT result_t nvmlDeviceGetName(device_t device, char *name, unsigned size) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	return leave(result == SUCCESS ? put(gpu->model, name, size) : result);
}

EXPORT result_t nvmlDeviceGetUUID(device_t device, char *uuid, unsigned size) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	return leave(result == SUCCESS ? put(gpu->uuid, uuid, size) : result);
}

EXPORT result_t nvmlDeviceGetIndex(device_t device, unsigned *index) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && index == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *index = index_of(gpu);
	return leave(result);
}

EXPORT result_t nvmlDeviceGetMinorNumber(device_t device, unsigned *minor) { return nvmlDeviceGetIndex(device, minor); }

EXPORT result_t nvmlDeviceGetPciInfo_v3(device_t device, pci_info_t *info) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && info == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) {
		memset(info, 0, sizeof *info);
		info->bus = index_of(gpu) + 1;
		bus_id(gpu, info->bus_id);
		memcpy(info->legacy, info->bus_id + 4, strlen(info->bus_id + 4) + 1);
	}
	return leave(result);
}

EXPORT result_t nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && memory == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) { /* the first version counts as used what is reserved */
		uint64_t used = gpu->reserved + gpu->used;
		*memory = (memory_t){gpu->total, gpu->total - used, used};
	}
	return leave(result);
}

EXPORT result_t nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && memory == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS && memory->version != MEMORY_V2) result = ARGUMENT_VERSION_MISMATCH;
	if (result == SUCCESS) *memory = (memory_v2_t){MEMORY_V2, gpu->total, gpu->reserved, gpu->total - gpu->reserved - gpu->used, gpu->used};
	return leave(result);
}

static uint32_t processes_of(const gpu_t *gpu) {
	uint32_t count = 0;
	for (uint32_t i = 0; i < house.process_count; i++) count += house.processes[i].gpu == index_of(gpu);
	return count;
}

EXPORT result_t nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, process_info_t *infos) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && count == NULL) result = INVALID_ARGUMENT;
	if (result != SUCCESS) return leave(result);
	uint32_t room = infos == NULL ? 0 : *count;
	*count = processes_of(gpu);
	if (*count > room) return leave(INSUFFICIENT_SIZE);
	for (uint32_t i = 0, filled = 0; i < house.process_count; i++)
		if (house.processes[i].gpu == index_of(gpu))
			infos[filled++] = (process_info_t){house.processes[i].pid, house.processes[i].used, NO_INSTANCE, NO_INSTANCE};
	return leave(SUCCESS);
}

EXPORT result_t nvmlDeviceGetGraphicsRunningProcesses_v3(device_t device, unsigned *count, process_info_t *infos) {
	(void)infos;
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && count == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *count = 0;
	return leave(result);
}

EXPORT result_t nvmlDeviceGetUtilizationRates(device_t device, utilization_t *rates) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && rates == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *rates = (utilization_t){gpu->compute, gpu->memory};
	return leave(result);
}

/* Samples are always of now. None newer than `last_seen` is "not found", as with the driver. */
static result_t samples_wanted(const gpu_t *gpu, uint64_t last_seen, uint64_t now, uint32_t room, uint32_t *count) {
	*count = last_seen < now ? processes_of(gpu) : 0;
	if (*count == 0) return NOT_FOUND;
	return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

EXPORT result_t nvmlDeviceGetProcessUtilization(device_t device, process_sample_t *samples, unsigned *count, unsigned long long last_seen) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	uint64_t now = now_microseconds();
	if (result == SUCCESS && count == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) result = samples_wanted(gpu, last_seen, now, samples == NULL ? 0 : *count, count);
	if (result != SUCCESS) return leave(result);
	for (uint32_t i = 0, filled = 0; i < house.process_count; i++) {
		const process_t *process = &house.processes[i];
		if (process->gpu == index_of(gpu)) samples[filled++] = (process_sample_t){process->pid, now, process->compute, process->memory, 0, 0};
	}
	return leave(SUCCESS);
}

EXPORT result_t nvmlDeviceGetProcessesUtilizationInfo(device_t device, processes_util_t *info) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	uint64_t now = now_microseconds();
	if (result == SUCCESS && info == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS && info->version != PROCESSES_UTIL_V1) result = ARGUMENT_VERSION_MISMATCH;
	if (result == SUCCESS) result = samples_wanted(gpu, info->last_seen, now, info->samples == NULL ? 0 : info->count, &info->count);
	if (result != SUCCESS) return leave(result);
	for (uint32_t i = 0, filled = 0; i < house.process_count; i++) {
		const process_t *process = &house.processes[i];
		if (process->gpu == index_of(gpu)) info->samples[filled++] = (process_util_t){now, process->pid, process->compute, process->memory, 0, 0, 0, 0};
	}
	return leave(SUCCESS);
}

/* A GPU is described either without MIG or with it enabled. */
EXPORT result_t nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && (current == NULL || pending == NULL)) result = INVALID_ARGUMENT;
	if (result == SUCCESS && !gpu->mig) result = NOT_SUPPORTED;
	if (result == SUCCESS) *current = *pending = 1;
	return leave(result);
}

/* The one field that is told: what the driver asks to be done. */
EXPORT result_t nvmlDeviceGetFieldValues(device_t device, int count, field_value_t *values) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && (count < 1 || values == NULL)) result = INVALID_ARGUMENT;
	for (int i = 0; result == SUCCESS && i < count; i++) {
		bool told = values[i].field == FIELD_RECOVERY_ACTION && gpu->recovery != RECOVERY_UNTOLD;
		values[i].at = (int64_t)now_microseconds();
		values[i].latency = 0;
		values[i].type = VALUE_UNSIGNED;
		values[i].result = told ? SUCCESS : NOT_SUPPORTED;
		values[i].value = told ? gpu->recovery : 0;
	}
	return leave(result);
}

EXPORT result_t nvmlDeviceGetRemappedRows(device_t device, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && (correctable == NULL || uncorrectable == NULL || pending == NULL || failed == NULL)) result = INVALID_ARGUMENT;
	if (result != SUCCESS) return leave(result);
	*correctable = 0;
	*uncorrectable = gpu->pending || gpu->failed;
	*pending = gpu->pending;
	*failed = gpu->failed;
	return leave(SUCCESS);
}

/* --- events --- */
EXPORT result_t nvmlDeviceGetSupportedEventTypes(device_t device, unsigned long long *types) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && types == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *types = gpu->deaf ? 0 : XID_CRITICAL_ERROR;
	return leave(result);
}

EXPORT result_t nvmlEventSetCreate(event_set_t *set) {
	result_t result = enter();
	if (result == SUCCESS && set == NULL) result = INVALID_ARGUMENT;
	if (result != SUCCESS) return leave(result);
	unsigned place = 0;
	while (place < MAX_SETS && sets[place].used) place++;
	if (place == MAX_SETS) return leave(INSUFFICIENT_RESOURCES);
	memset(&sets[place], 0, sizeof sets[place]);
	sets[place].used = true;
	*set = (event_set_t)(uintptr_t)(place + 1);
	return leave(SUCCESS);
}

static bool is_set(event_set_t set) { return (uintptr_t)set >= 1 && (uintptr_t)set <= MAX_SETS && sets[(uintptr_t)set - 1].used; }

EXPORT result_t nvmlEventSetFree(event_set_t set) {
	pthread_mutex_lock(&lock);
	if (!is_set(set)) return leave(INVALID_ARGUMENT);
	sets[(uintptr_t)set - 1].used = false;
	return leave(SUCCESS);
}

EXPORT result_t nvmlDeviceRegisterEvents(device_t device, unsigned long long types, event_set_t set) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result != SUCCESS) return leave(result);
	if (!is_set(set)) return leave(INVALID_ARGUMENT);
	if (types & ~(gpu->deaf ? 0 : XID_CRITICAL_ERROR)) return leave(NOT_SUPPORTED);
	uint64_t last = 0;
	for (uint32_t i = 0; i < house.event_count; i++)
		if (house.events[i].at > last) last = house.events[i].at;
	uintptr_t place = (uintptr_t)device - 1;
	sets[(uintptr_t)set - 1].registered[place] = types != 0;
	sets[(uintptr_t)set - 1].since[place] = last;
	return leave(SUCCESS);
}

/* The earliest event that `set` has not been told, if there is one. */
static bool next_event(event_set_t set, event_data_t *data) {
	const event_t *first = NULL;
	uintptr_t place = 0;
	for (uint32_t i = 0; i < house.event_count; i++) {
		const event_t *event = &house.events[i];
		uintptr_t of = (uintptr_t)handle_of(&house.gpus[event->gpu]) - 1;
		if (!sets[(uintptr_t)set - 1].registered[of] || event->at <= sets[(uintptr_t)set - 1].since[of]) continue;
		if (first != NULL && first->at <= event->at) continue;
		first = event;
		place = of;
	}
	if (first == NULL) return false;
	sets[(uintptr_t)set - 1].since[place] = first->at;
	*data = (event_data_t){(device_t)(place + 1), XID_CRITICAL_ERROR, first->xid, NO_INSTANCE, NO_INSTANCE};
	return true;
}

EXPORT result_t nvmlEventSetWait_v2(event_set_t set, event_data_t *data, unsigned timeout_ms) {
	for (uint64_t until = now_microseconds() + (uint64_t)timeout_ms * 1000u;;) {
		result_t result = enter();
		if (result == SUCCESS && (data == NULL || !is_set(set))) result = INVALID_ARGUMENT;
		if (result != SUCCESS) return leave(result);
		bool told = next_event(set, data);
		leave(SUCCESS);
		if (told) return SUCCESS;
		if (now_microseconds() >= until) return TIMEOUT;
		nanosleep(&(struct timespec){0, WAIT_STEP_MS * 1000000L}, NULL);
	}
}
