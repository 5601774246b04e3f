/* A libnvidia-ml.so.1 without a GPU behind it: it answers as the driver library does, about GPUs that a text file describes.
 *
 * The file is $AIOS_FAKE_GPUS, or /etc/aios/fake-gpus.conf, and is read again whenever it has changed; replace it by rename. One thing a line:
 *
 *   # a comment
 *   driver version=615.10 cuda=13000 error=9             optional; error is the NVML code that every call returns, as while a driver is reloaded
 *   gpu uuid=GPU-5c0e... model="NVIDIA H100 80GB HBM3" memory=80Gi reserved=512Mi error=15 mig=1
 *   process gpu=0 pid=123 used=1Gi compute=10 memory=5
 *   utilisation gpu=0 compute=10 memory=5                in percent
 *   event gpu=0 xid=79 at=1                              told to event sets that had registered the GPU before an `at` so high was there
 *   programs proc=/proc                                  programs say themselves what they use
 *
 * With a programs line each process below `proc` uses what it says in the file /tmp/aios-fake-vram/<its pid, as it knows it> of its own root, a line
 * `gpu=GPU-5c0e... used=1Gi` for each GPU, for as long as it lives and as far as the GPU has that much free; a line that says anything else
 * counts for nothing. So the programs of a container can play what they do with a GPU, and the pids told are those of the reader.
 *
 * GPUs are numbered from 0 in their order. A GPU that leaves the file is lost to those who hold its handle. A file that can't be understood
 * makes every call fail, with one line on standard error that names its line. The driver's version always ends in "-aios-fake", so that whoever
 * reads it can tell that nothing is enforced here. Structures are laid out as in nvml.h.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

#define EXPORT __attribute__((visibility("default")))
#define DEFAULT_FILE "/etc/aios/fake-gpus.conf"
#define MARKER "-aios-fake"

enum { MAX_GPUS = 64, MAX_PROCESSES = 1024, MAX_EVENTS = 1024, MAX_KNOWN = 1024, MAX_SETS = 64, MAX_PAIRS = 8 };
enum { UUID_SIZE = 80, NAME_SIZE = 96, WAIT_STEP_MS = 10, PROGRAMS_STEP_MS = 50, PROGRAM_BYTES = 4096 };

typedef enum {
	SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
	TIMEOUT = 10, GPU_IS_LOST = 15, INSUFFICIENT_RESOURCES = 23, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999,
} result_t;

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
typedef struct { char legacy[16]; uint32_t domain, bus, device, device_id, subsystem_id; char bus_id[32]; } pci_info_t;
_Static_assert(sizeof(memory_v2_t) == 40 && sizeof(process_info_t) == 24 && sizeof(event_data_t) == 32 && sizeof(pci_info_t) == 68, "as in nvml.h");
#define MEMORY_V2 (sizeof(memory_v2_t) | 2u << 24)
#define PROCESSES_UTIL_V1 (sizeof(processes_util_t) | 1u << 24)
#define XID_CRITICAL_ERROR 8ull
#define NO_INSTANCE 0xFFFFFFFFu

/* --- what the file says --- */
typedef struct {
	char uuid[UUID_SIZE], model[NAME_SIZE];
	uint64_t total, reserved, used;
	uint32_t compute, memory;
	bool mig;
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

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned initialized;
static house_t house;              /* the last good reading */
static result_t house_state = DRIVER_NOT_LOADED;
static struct stat seen;           /* of the file that was read last */
static bool seen_any;
static char known[MAX_KNOWN][UUID_SIZE]; /* every uuid ever described; handles are places in it, so they stay what they were */
static unsigned known_count;
static struct { bool used; uint64_t since[MAX_KNOWN]; bool registered[MAX_KNOWN]; } sets[MAX_SETS];

/* --- reading the file --- */
typedef struct { const char *file; unsigned line; house_t *into; } reader_t;
typedef struct { const char *key, *value; bool taken; } pair_t;
typedef struct { reader_t *reader; pair_t pairs[MAX_PAIRS]; unsigned count; bool bad; } fields_t;

__attribute__((format(printf, 2, 3))) static bool bad(const reader_t *reader, const char *format, ...) {
	va_list arguments;
	fprintf(stderr, "aios-fake libnvidia-ml: %s:%u: ", reader->file, reader->line);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return false;
}

/* Cut `text` into key=value and key="value with spaces". */
static bool split(fields_t *fields, char *text) {
	for (;;) {
		text += strspn(text, " \t");
		if (*text == '\0' || *text == '#') return true;
		if (fields->count == MAX_PAIRS) return bad(fields->reader, "more than %d fields", MAX_PAIRS);
		char *equals = text + strcspn(text, "= \t");
		if (*equals != '=') return bad(fields->reader, "after the first word a line has only key=value");
		*equals = '\0';
		char *value = equals + 1, *end;
		if (*value == '"') {
			end = strchr(++value, '"');
			if (end == NULL) return bad(fields->reader, "the quote of %.32s is not closed", text);
			if (end[1] != '\0' && end[1] != ' ' && end[1] != '\t') return bad(fields->reader, "a space must follow the value of %.32s", text);
		} else {
			end = value + strcspn(value, " \t");
		}
		for (unsigned i = 0; i < fields->count; i++)
			if (strcmp(fields->pairs[i].key, text) == 0) return bad(fields->reader, "%.32s is given twice", text);
		fields->pairs[fields->count++] = (pair_t){text, value, false};
		text = *end ? end + 1 : end;
		*end = '\0';
	}
}

static const char *take(fields_t *fields, const char *key, bool required) {
	for (unsigned i = 0; i < fields->count; i++)
		if (strcmp(fields->pairs[i].key, key) == 0) {
			fields->pairs[i].taken = true;
			return fields->pairs[i].value;
		}
	if (required) fields->bad = !bad(fields->reader, "%s is missing", key) || fields->bad;
	return NULL;
}

/* A whole number from `low` to `high`, with Ki, Mi, Gi or Ti behind it where `scaled`. `fallback` when absent. */
static uint64_t number(fields_t *fields, const char *key, bool required, bool scaled, uint64_t low, uint64_t high, uint64_t fallback) {
	const char *text = take(fields, key, required);
	if (text == NULL) return fallback;
	static const struct { const char *suffix; unsigned shift; } scales[] = {{"Ki", 10}, {"Mi", 20}, {"Gi", 30}, {"Ti", 40}};
	char *end = NULL;
	errno = 0;
	uint64_t value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
	bool good = end != NULL && errno == 0;
	if (good && scaled)
		for (unsigned i = 0; i < 4; i++)
			if (strcmp(end, scales[i].suffix) == 0) {
				good = value <= UINT64_MAX >> scales[i].shift;
				value <<= scales[i].shift;
				end += 2;
				break;
			}
	if (good && *end == '\0' && value >= low && value <= high) return value;
	bad(fields->reader, "%s must be a whole number from %" PRIu64 " to %" PRIu64 "%s, not %.32s", key, low, high, scaled ? ", such as 16Gi" : "", text);
	fields->bad = true;
	return fallback;
}

static void string(fields_t *fields, const char *key, bool required, char *into, size_t size, const char *allowed) {
	const char *text = take(fields, key, required);
	if (text == NULL) return;
	bool good = *text != '\0' && strlen(text) < size;
	for (const char *c = text; *c && good; c++) good = isalnum((unsigned char)*c) || strchr(allowed, *c) != NULL;
	if (good) {
		memcpy(into, text, strlen(text) + 1);
		return;
	}
	bad(fields->reader, "%s must have 1 to %zu of the characters A-Z a-z 0-9 and \"%s\"", key, size - 1, allowed);
	fields->bad = true;
}

static uint32_t gpu_number(fields_t *fields) {
	uint32_t count = fields->reader->into->gpu_count;
	if (count == 0) {
		fields->bad = !bad(fields->reader, "a gpu line must come before") || fields->bad;
		take(fields, "gpu", false);
		return 0;
	}
	return (uint32_t)number(fields, "gpu", true, false, 0, count - 1, 0);
}

static void read_driver(fields_t *fields) {
	house_t *into = fields->reader->into;
	if (into->driver_given) fields->bad = !bad(fields->reader, "driver is given twice") || fields->bad;
	into->driver_given = true;
	string(fields, "version", false, into->version, sizeof into->version - sizeof MARKER, ".-");
	into->cuda = (uint32_t)number(fields, "cuda", false, false, 1000, 99999, 13000);
	into->error = (result_t)number(fields, "error", false, false, 0, 999, SUCCESS);
}

static void read_gpu(fields_t *fields) {
	house_t *into = fields->reader->into;
	if (into->gpu_count == MAX_GPUS) {
		fields->bad = !bad(fields->reader, "more than %d GPUs", MAX_GPUS);
		return;
	}
	gpu_t gpu = {0};
	string(fields, "uuid", true, gpu.uuid, sizeof gpu.uuid, "-");
	string(fields, "model", true, gpu.model, sizeof gpu.model, " -_.()/");
	gpu.total = number(fields, "memory", true, true, 1, (uint64_t)1 << 50, 1);
	gpu.reserved = number(fields, "reserved", false, true, 0, gpu.total, 0);
	gpu.error = (result_t)number(fields, "error", false, false, 0, 999, SUCCESS);
	gpu.mig = number(fields, "mig", false, false, 0, 1, 0) != 0;
	if (!fields->bad && strncmp(gpu.uuid, "GPU-", 4) != 0) fields->bad = !bad(fields->reader, "uuid must begin with GPU-");
	for (uint32_t i = 0; i < into->gpu_count && !fields->bad; i++)
		if (strcmp(into->gpus[i].uuid, gpu.uuid) == 0) fields->bad = !bad(fields->reader, "uuid is that of GPU %u", i);
	into->gpus[into->gpu_count++] = gpu;
}

static void read_process(fields_t *fields) {
	house_t *into = fields->reader->into;
	if (into->process_count == MAX_PROCESSES) {
		fields->bad = !bad(fields->reader, "more than %d processes", MAX_PROCESSES);
		return;
	}
	process_t process = {.gpu = gpu_number(fields)};
	gpu_t *gpu = &into->gpus[process.gpu];
	process.pid = (uint32_t)number(fields, "pid", true, false, 1, 1 << 22, 1);
	process.used = number(fields, "used", true, true, 0, gpu->total - gpu->reserved - gpu->used, 0);
	process.compute = (uint32_t)number(fields, "compute", false, false, 0, 100, 0);
	process.memory = (uint32_t)number(fields, "memory", false, false, 0, 100, 0);
	gpu->used += process.used;
	into->processes[into->process_count++] = process;
}

static void read_utilisation(fields_t *fields) {
	gpu_t *gpu = &fields->reader->into->gpus[gpu_number(fields)];
	gpu->compute = (uint32_t)number(fields, "compute", true, false, 0, 100, 0);
	gpu->memory = (uint32_t)number(fields, "memory", true, false, 0, 100, 0);
}

static void read_event(fields_t *fields) {
	house_t *into = fields->reader->into;
	if (into->event_count == MAX_EVENTS) {
		fields->bad = !bad(fields->reader, "more than %d events", MAX_EVENTS);
		return;
	}
	event_t event = {.gpu = gpu_number(fields)};
	event.xid = number(fields, "xid", true, false, 1, 999, 1);
	event.at = number(fields, "at", true, false, 1, UINT64_MAX, 1);
	into->events[into->event_count++] = event;
}

static void read_programs(fields_t *fields) {
	house_t *into = fields->reader->into;
	if (into->proc[0] != '\0') fields->bad = !bad(fields->reader, "programs is given twice") || fields->bad;
	string(fields, "proc", true, into->proc, sizeof into->proc, "/-_.");
}

static bool read_line(reader_t *reader, char *text) {
	static const struct { const char *word; void (*read)(fields_t *); } kinds[] = {
		{"driver", read_driver}, {"gpu", read_gpu}, {"process", read_process}, {"utilisation", read_utilisation}, {"event", read_event},
		{"programs", read_programs},
	};
	text += strspn(text, " \t");
	if (*text == '\0' || *text == '#') return true;
	char *word = text, *rest = text + strcspn(text, " \t");
	if (*rest) *rest++ = '\0';
	fields_t fields = {.reader = reader};
	for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (strcmp(word, kinds[i].word) != 0) continue;
		if (!split(&fields, rest)) return false;
		kinds[i].read(&fields);
		for (unsigned j = 0; j < fields.count && !fields.bad; j++)
			if (!fields.pairs[j].taken) return bad(reader, "a %s has no %.32s", word, fields.pairs[j].key);
		return !fields.bad;
	}
	return bad(reader, "a line begins with driver, gpu, process, utilisation, event or programs, not with %.32s", word);
}

static bool read_house(FILE *stream, const char *file, house_t *into) {
	reader_t reader = {file, 0, into};
	char *text = NULL;
	size_t size = 0;
	ssize_t length;
	bool good = true;
	while (good && (length = getline(&text, &size, stream)) >= 0) {
		reader.line++;
		if (length > 0 && text[length - 1] == '\n') text[--length] = '\0';
		good = strlen(text) == (size_t)length ? read_line(&reader, text) : bad(&reader, "a line must have no NUL");
	}
	if (good && ferror(stream)) good = bad(&reader, "%s", strerror(errno));
	free(text);
	return good;
}

static bool learn(const house_t *from) {
	for (uint32_t i = 0; i < from->gpu_count; i++) {
		unsigned k = 0;
		while (k < known_count && strcmp(known[k], from->gpus[i].uuid) != 0) k++;
		if (k == MAX_KNOWN) return false;
		if (k == known_count) memcpy(known[known_count++], from->gpus[i].uuid, UUID_SIZE);
	}
	return true;
}

/* --- what programs say --- */
static uint64_t now_microseconds(void) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* The pid of process `name` in its own, innermost namespace; 0 when it has ended. */
static unsigned own_pid(int process) {
	char text[PROGRAM_BYTES];
	int file = openat(process, "status", O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
	if (file >= 0) close(file);
	if (length <= 0) return 0;
	text[length] = '\0';
	char *line = strstr(text, "\nNSpid:");
	if (line == NULL) return 0;
	line[1 + strcspn(line + 1, "\n")] = '\0';
	return (unsigned)strtoul(strrchr(line, '\t') + 1, NULL, 10);
}

/* What the process says, in `into`; empty when it says nothing. Links are not followed and only plain files are read: programs are not trusted. */
static void said_by(int process, char into[PROGRAM_BYTES]) {
	into[0] = '\0';
	int root = openat(process, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int tmp = root < 0 ? -1 : openat(root, "tmp", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int directory = tmp < 0 ? -1 : openat(tmp, "aios-fake-vram", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	char name[16];
	snprintf(name, sizeof name, "%u", directory < 0 ? 0 : own_pid(process));
	int file = directory < 0 ? -1 : openat(directory, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	struct stat found;
	if (file >= 0 && fstat(file, &found) == 0 && S_ISREG(found.st_mode)) {
		ssize_t length = read(file, into, PROGRAM_BYTES - 1);
		into[length > 0 ? length : 0] = '\0';
	}
	if (file >= 0) close(file);
	if (directory >= 0) close(directory);
	if (tmp >= 0) close(tmp);
	if (root >= 0) close(root);
}

static void believe(uint32_t pid, const char *line) {
	char uuid[UUID_SIZE], unit[3] = "";
	uint64_t used;
	if (sscanf(line, "gpu=%79s used=%10" SCNu64 "%2[KMGi]", uuid, &used, unit) < 2 || house.process_count == MAX_PROCESSES) return;
	used <<= strcmp(unit, "Gi") == 0 ? 30 : strcmp(unit, "Mi") == 0 ? 20 : strcmp(unit, "Ki") == 0 ? 10 : 0;
	for (uint32_t i = 0; i < house.gpu_count; i++) {
		gpu_t *gpu = &house.gpus[i];
		uint64_t left = gpu->total - gpu->reserved - gpu->used;
		if (strcmp(gpu->uuid, uuid) != 0) continue;
		house.processes[house.process_count++] = (process_t){.gpu = i, .pid = pid, .used = used < left ? used : left};
		gpu->used += used < left ? used : left;
	}
}

/* Bring the programs' own processes up to date. */
static void listen_to_programs(void) {
	static uint64_t heard;
	uint64_t now = now_microseconds();
	if (house.process_count > house.described_count && now - heard < PROGRAMS_STEP_MS * 1000u) return;
	heard = now;
	while (house.process_count > house.described_count) {
		const process_t *last = &house.processes[--house.process_count];
		house.gpus[last->gpu].used -= last->used;
	}
	DIR *proc = opendir(house.proc);
	for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
		if (!isdigit((unsigned char)entry->d_name[0])) continue;
		int process = openat(dirfd(proc), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		char text[PROGRAM_BYTES], *rest = NULL;
		if (process < 0) continue;
		said_by(process, text);
		close(process);
		for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
			believe((uint32_t)strtoul(entry->d_name, NULL, 10), line);
	}
	if (proc != NULL) closedir(proc);
}

static bool unchanged(const struct stat *now) {
	return seen_any && now->st_ino == seen.st_ino && now->st_dev == seen.st_dev && now->st_size == seen.st_size &&
	       now->st_mtim.tv_sec == seen.st_mtim.tv_sec && now->st_mtim.tv_nsec == seen.st_mtim.tv_nsec &&
	       now->st_ctim.tv_sec == seen.st_ctim.tv_sec && now->st_ctim.tv_nsec == seen.st_ctim.tv_nsec;
}

/* Bring `house` up to date. A missing file is a driver that is not loaded. */
static result_t look(void) {
	static house_t fresh;
	const char *file = getenv("AIOS_FAKE_GPUS");
	if (file == NULL || *file == '\0') file = DEFAULT_FILE;
	FILE *stream = fopen(file, "re");
	struct stat now;
	if (stream == NULL || fstat(fileno(stream), &now) != 0) {
		if (stream != NULL) fclose(stream);
		seen_any = false;
		return house_state = DRIVER_NOT_LOADED;
	}
	if (!unchanged(&now)) {
		seen = now;
		seen_any = true;
		memset(&fresh, 0, sizeof fresh);
		fresh.cuda = 13000;
		memcpy(fresh.version, "615.00", sizeof "615.00");
		bool good = read_house(stream, file, &fresh) && learn(&fresh);
		if (good) {
			strcat(fresh.version, MARKER);
			fresh.described_count = fresh.process_count;
			house = fresh;
		}
		house_state = good ? SUCCESS : UNKNOWN;
	}
	fclose(stream);
	if (house_state == SUCCESS && house.proc[0] != '\0') listen_to_programs();
	return house_state != SUCCESS ? house_state : house.error;
}

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

/* --- events --- */
EXPORT result_t nvmlDeviceGetSupportedEventTypes(device_t device, unsigned long long *types) {
	gpu_t *gpu;
	result_t result = enter_gpu(device, &gpu);
	if (result == SUCCESS && types == NULL) result = INVALID_ARGUMENT;
	if (result == SUCCESS) *types = XID_CRITICAL_ERROR;
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
	if (types & ~XID_CRITICAL_ERROR) return leave(NOT_SUPPORTED);
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
