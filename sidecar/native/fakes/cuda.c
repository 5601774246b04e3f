/* A libcuda.so.1 without a GPU behind it, about the GPUs that house.h tells of: as much of the driver API as a program needs to have a context.
 *
 * $CUDA_VISIBLE_DEVICES may name GPUs by uuid, separated by commas; without it all are there. A context says what it takes in the way of all
 * programs that play (house.h), in the name of this process, so that the fake libnvidia-ml tells it to whoever asks. One process, one GPU.
 */
#define _GNU_SOURCE
#include "house.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* Of cuda.h. */
typedef enum {
	CUDA_SUCCESS = 0, CUDA_INVALID_VALUE = 1, CUDA_OUT_OF_MEMORY = 2, CUDA_NOT_INITIALIZED = 3, CUDA_NO_DEVICE = 100, CUDA_INVALID_DEVICE = 101,
	CUDA_OPERATING_SYSTEM = 304, CUDA_NOT_SUPPORTED = 801, CUDA_UNKNOWN = 999,
} cuda_t;
typedef void *context_t;

static const struct { cuda_t code; const char *name; } names[] = {
	{CUDA_SUCCESS, "CUDA_SUCCESS"}, {CUDA_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {CUDA_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
	{CUDA_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {CUDA_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
	{CUDA_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {CUDA_OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM"},
	{CUDA_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"}, {CUDA_UNKNOWN, "CUDA_ERROR_UNKNOWN"},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialized;
static uint32_t visible[MAX_GPUS]; /* numbers of GPUs in the house, by ordinal */
static int visible_count;
static unsigned retained[MAX_GPUS]; /* of each ordinal */

static cuda_t leave(cuda_t result) {
	pthread_mutex_unlock(&lock);
	return result;
}

static bool shown(const char *uuid, const char *chosen) {
	size_t length = strlen(uuid);
	for (const char *at = chosen; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (strncmp(at, uuid, length) == 0 && (at[length] == '\0' || at[length] == ',')) return true;
	return false;
}

EXPORT cuda_t cuInit(unsigned flags) {
	if (flags != 0) return CUDA_INVALID_VALUE;
	pthread_mutex_lock(&lock);
	if (look() != SUCCESS) return leave(CUDA_NO_DEVICE);
	const char *chosen = getenv("CUDA_VISIBLE_DEVICES");
	visible_count = 0;
	for (uint32_t i = 0; i < house.gpu_count; i++)
		if (chosen == NULL || shown(house.gpus[i].uuid, chosen)) visible[visible_count++] = i;
	initialized = visible_count > 0;
	return leave(initialized ? CUDA_SUCCESS : CUDA_NO_DEVICE);
}

EXPORT cuda_t cuDriverGetVersion(int *version) {
	if (version == NULL) return CUDA_INVALID_VALUE;
	pthread_mutex_lock(&lock);
	bool there = look() == SUCCESS;
	*version = there ? (int)house.cuda : 0;
	return leave(there ? CUDA_SUCCESS : CUDA_UNKNOWN);
}

EXPORT cuda_t cuDeviceGetCount(int *count) {
	if (!initialized) return CUDA_NOT_INITIALIZED;
	if (count == NULL) return CUDA_INVALID_VALUE;
	*count = visible_count;
	return CUDA_SUCCESS;
}

EXPORT cuda_t cuDeviceGet(int *device, int ordinal) {
	if (!initialized) return CUDA_NOT_INITIALIZED;
	if (device == NULL) return CUDA_INVALID_VALUE;
	if (ordinal < 0 || ordinal >= visible_count) return CUDA_INVALID_DEVICE;
	*device = ordinal;
	return CUDA_SUCCESS;
}

static void own_file(char into[64], const char *end) { snprintf(into, 64, "%s/%d%s", PROGRAMS_DIR, (int)getpid(), end); }

/* Say what the context takes. */
static bool say(const gpu_t *gpu) {
	char path[64], fresh[64];
	own_file(path, "");
	own_file(fresh, ".new");
	mkdir(PROGRAMS_DIR, 0777);
	int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	bool written = file >= 0 && dprintf(file, "gpu=%s used=%" PRIu64 "Ki\n", gpu->uuid, gpu->context >> 10) > 0;
	if (file >= 0) close(file);
	return written && rename(fresh, path) == 0;
}

EXPORT cuda_t cuDevicePrimaryCtxRetain(context_t *context, int device) {
	pthread_mutex_lock(&lock);
	if (!initialized) return leave(CUDA_NOT_INITIALIZED);
	if (context == NULL) return leave(CUDA_INVALID_VALUE);
	if (device < 0 || device >= visible_count) return leave(CUDA_INVALID_DEVICE);
	if (look() != SUCCESS || visible[device] >= house.gpu_count || house.gpus[visible[device]].error != SUCCESS) return leave(CUDA_UNKNOWN);
	const gpu_t *gpu = &house.gpus[visible[device]];
	if (gpu->context == 0) return leave(CUDA_NOT_SUPPORTED);
	if (retained[device] == 0) {
		if (gpu->context > gpu->total - gpu->reserved - gpu->used) return leave(CUDA_OUT_OF_MEMORY);
		if (!say(gpu)) return leave(CUDA_OPERATING_SYSTEM);
	}
	retained[device]++;
	*context = (context_t)(uintptr_t)(device + 1);
	return leave(CUDA_SUCCESS);
}

EXPORT cuda_t cuDevicePrimaryCtxRelease_v2(int device) {
	pthread_mutex_lock(&lock);
	if (!initialized) return leave(CUDA_NOT_INITIALIZED);
	if (device < 0 || device >= visible_count || retained[device] == 0) return leave(CUDA_INVALID_DEVICE);
	if (--retained[device] == 0) {
		char path[64];
		own_file(path, "");
		unlink(path);
	}
	return leave(CUDA_SUCCESS);
}

EXPORT cuda_t cuGetErrorName(cuda_t error, const char **name) {
	if (name == NULL) return CUDA_INVALID_VALUE;
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].code == error) {
			*name = names[i].name;
			return CUDA_SUCCESS;
		}
	*name = NULL;
	return CUDA_INVALID_VALUE;
}
