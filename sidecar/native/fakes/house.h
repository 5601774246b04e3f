/* What a text file says of GPUs that do not exist, for the fake driver libraries.
 *
 * The file is $AIOS_FAKE_GPUS, or /etc/aios/fake-gpus.conf, and is read again whenever it has changed; replace it by rename. One thing a line:
 *
 *   # a comment
 *   driver version=615.10 cuda=13000 error=9             optional; error is the NVML code that every call returns, as while a driver is reloaded
 *   gpu uuid=GPU-5c0e... model="NVIDIA H100 80GB HBM3" memory=80Gi reserved=512Mi error=15 mig=1 events=0 recovery=1 pending=1 failed=1 context=400Mi
 *   process gpu=0 pid=123 used=1Gi compute=10 memory=5
 *   utilisation gpu=0 compute=10 memory=5                in percent
 *   event gpu=0 xid=79 at=1                              told to event sets that had registered the GPU before an `at` so high was there
 *   programs proc=/proc                                  programs say themselves what they use
 *
 * Of a gpu line all but uuid, model and memory is optional: events=0 is a GPU that reports none, recovery the action that the driver asks for (0 none,
 * 1 reset, 2 reboot; absent: it does not tell), pending and failed what became of remapped rows, context what a CUDA context takes (absent: none can
 * be made).
 *
 * With a programs line each process below `proc` uses what it says in the file /tmp/aios-fake-vram/<its pid, as it knows it> of its own root, a line
 * `gpu=GPU-5c0e... used=1Gi` for each GPU, for as long as it lives and as far as the GPU has that much free; a line that says anything else
 * counts for nothing, and so does a file from before the process began, which another of that number left. So the programs of a container can
 * play what they do with a GPU, and the pids told are those of the reader.
 *
 * GPUs are numbered from 0 in their order. A GPU that leaves the file is lost to those who hold its handle. A file that can't be understood
 * makes every call fail, with one line on standard error that names its line. The driver's version always ends in "-aios-fake", so that whoever
 * reads it can tell that nothing is enforced here.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define MARKER "-aios-fake"
#define PROGRAMS_DIR "/tmp/aios-fake-vram"

enum { MAX_GPUS = 64, MAX_PROCESSES = 1024, MAX_EVENTS = 1024, MAX_KNOWN = 1024, UUID_SIZE = 80, NAME_SIZE = 96 };

/* Of NVML. */
typedef enum {
	SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
	TIMEOUT = 10, GPU_IS_LOST = 15, INSUFFICIENT_RESOURCES = 23, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999,
} result_t;

enum { RECOVERY_UNTOLD = 1000 };

typedef struct {
	char uuid[UUID_SIZE], model[NAME_SIZE];
	uint64_t total, reserved, used, context;
	uint32_t compute, memory, recovery;
	bool mig, deaf, pending, failed;
	result_t error;
} gpu_t;
typedef struct { uint32_t gpu, pid; uint64_t used; uint32_t compute, memory; } process_t;
typedef struct { uint32_t gpu; uint64_t xid, at; } event_t;
typedef struct {
	gpu_t gpus[MAX_GPUS];
	process_t processes[MAX_PROCESSES];
	event_t events[MAX_EVENTS];
	uint32_t gpu_count, process_count, event_count, cuda;
	uint32_t described_count; /* of the processes, those that the file describes; after them come the programs' own */
	char version[NAME_SIZE], proc[NAME_SIZE];
	bool driver_given;
	result_t error;
} house_t;

extern house_t house;                     /* the last good reading */
extern char known[MAX_KNOWN][UUID_SIZE];  /* every uuid ever described; handles are places in it, so they stay what they were */
extern unsigned known_count;

/* Bring `house` up to date. A missing file is a driver that is not loaded. The caller keeps all else from calling it meanwhile. */
result_t look(void);

uint64_t now_microseconds(void);
