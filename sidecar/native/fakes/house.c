/* Reads the description of GPUs that do not exist, and what programs say of themselves. The format is in house.h. */
#define _GNU_SOURCE
#include "house.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_FILE "/etc/aios/fake-gpus.conf"
#define SKIP_18 " %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s" /* the fields 4 to 21 of /proc/PID/stat */
#define CLOCK_STEP_SECONDS 0.05 /* times of files and of processes are told in steps of up to 10 ms */

enum { MAX_PAIRS = 16, PROGRAMS_STEP_MS = 50, PROGRAM_BYTES = 4096 };

house_t house;
char known[MAX_KNOWN][UUID_SIZE];
unsigned known_count;
static result_t house_state = DRIVER_NOT_LOADED;
static struct stat seen; /* of the file that was read last */
static bool seen_any;

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
	gpu.deaf = number(fields, "events", false, false, 0, 1, 1) == 0;
	gpu.recovery = (uint32_t)number(fields, "recovery", false, false, 0, 99, RECOVERY_UNTOLD);
	gpu.pending = number(fields, "pending", false, false, 0, 1, 0) != 0;
	gpu.failed = number(fields, "failed", false, false, 0, 1, 0) != 0;
	gpu.context = number(fields, "context", false, true, 1, gpu.total, 0);
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
uint64_t now_microseconds(void) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static double seconds(struct timespec time) { return (double)time.tv_sec + (double)time.tv_nsec / 1e9; }

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

/* Whether the file was written since the process began: what an earlier process of that number left behind is not its word. */
static bool is_of(const struct stat *file, int process) {
	char text[PROGRAM_BYTES];
	int from = openat(process, "stat", O_RDONLY | O_CLOEXEC);
	ssize_t length = from < 0 ? -1 : read(from, text, sizeof text - 1);
	if (from >= 0) close(from);
	text[length > 0 ? length : 0] = '\0';
	const char *after_name = strrchr(text, ')');
	unsigned long long ticks;
	if (after_name == NULL || sscanf(after_name + 1, " %*c" SKIP_18 " %llu", &ticks) != 1) return false;
	struct timespec now, up;
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	double began = seconds(now) - seconds(up) + (double)ticks / (double)sysconf(_SC_CLK_TCK);
	return seconds(file->st_mtim) >= began - CLOCK_STEP_SECONDS;
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
	if (file >= 0 && fstat(file, &found) == 0 && S_ISREG(found.st_mode) && is_of(&found, process)) {
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

result_t look(void) {
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
