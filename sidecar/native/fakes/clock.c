/* A wall clock that was set: CLOCK_REALTIME is ahead by as many seconds as the file $AIOS_FAKE_CLOCK says, behind when they are negative. It is
 * read at each question; no file is no seconds. Every other clock is as it is. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static time_t ahead(void) {
	int before = errno;
	const char *path = getenv("AIOS_FAKE_CLOCK");
	int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	char text[32] = "";
	if (file >= 0) {
		ssize_t length = read(file, text, sizeof text - 1);
		text[length < 0 ? 0 : length] = '\0';
		close(file);
	}
	errno = before;
	return strtoll(text, NULL, 10);
}

PUBLIC int clock_gettime(clockid_t clock, struct timespec *now) {
	long failed = syscall(SYS_clock_gettime, clock, now);
	if (!failed && clock == CLOCK_REALTIME) now->tv_sec += ahead();
	return (int)failed;
}

PUBLIC int gettimeofday(struct timeval *restrict now, void *restrict zone) {
	struct timespec exact;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
	*now = (struct timeval){exact.tv_sec, exact.tv_nsec / 1000};
	return 0;
}

PUBLIC time_t time(time_t *now) {
	struct timespec exact;
	if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
	if (now != NULL) *now = exact.tv_sec;
	return exact.tv_sec;
}
