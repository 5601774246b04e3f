/* The OCI hook of an agent's containers (createRuntime): no container starts before the node agent has said "ok".
 *
 *     aios-hook SOCKET CLAIM-UID < OCI-state
 *
 * Sends "<claim uid>\n<state>" to the Unix socket, shuts down its writing side and reads one line. "ok" ends with exit 0,
 * "refused <reason>" with exit 1 and the reason on standard error, from where the runtime carries it into the pod's events.
 * While there is no answer (no node agent, or one that is being restarted) it asks again, for 30 s in all: the runtime itself
 * gives up after two minutes, and the kubelet starts the container anew later. It parses nothing and links nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_MS = 30000, PAUSE_MS = 200, STATE_MAX = 1 << 20, LINE_MAX_BYTES = 4096 };
enum answer { NONE, OK, REFUSED };

static char state[STATE_MAX];
static char line[LINE_MAX_BYTES];
static long long deadline_ms;

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) {
        /* nobody listens; the exit status still speaks */
    }
}

static int fail(const char *what, const char *detail) {
    say("aios: ");
    say(what);
    say(detail);
    say("\n");
    return 1;
}

/* Waits until `fd` is ready for `events` or the deadline has passed; true when it is ready. */
static int ready(int fd, short events) {
    for (;;) {
        long long left = deadline_ms - now_ms();
        struct pollfd wait = {.fd = fd, .events = events};
        if (left <= 0) return 0;
        int found = poll(&wait, 1, (int)left);
        if (found > 0) return 1;
        if (found < 0 && errno != EINTR) return 0;
    }
}

static int send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN) {
            if (!ready(fd, POLLOUT)) return 0;
        } else if (errno != EINTR) {
            return 0;
        }
    }
    return 1;
}

/* The line that the other side wrote, in `line`, without its end. Only a whole line is an answer. */
static enum answer read_answer(int fd) {
    size_t have = 0;
    while (have < sizeof line - 1 && ready(fd, POLLIN)) {
        ssize_t got = recv(fd, line + have, sizeof line - 1 - have, 0);
        if (got == 0) return NONE;
        if (got < 0) {
            if (errno == EINTR || errno == EAGAIN) continue;
            return NONE;
        }
        have += (size_t)got;
        char *end = memchr(line, '\n', have);
        if (!end) continue;
        *end = '\0';
        if (strcmp(line, "ok") == 0) return OK;
        return strncmp(line, "refused ", 8) == 0 ? REFUSED : NONE;
    }
    return NONE;
}

static enum answer ask(const struct sockaddr_un *address, const char *claim, size_t state_bytes) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return NONE;
    enum answer answer = NONE;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 && send_all(fd, claim, strlen(claim)) &&
        send_all(fd, "\n", 1) && send_all(fd, state, state_bytes) && shutdown(fd, SHUT_WR) == 0)
        answer = read_answer(fd);
    close(fd);
    return answer;
}

/* The OCI state from standard input; its length, or -1 when it can't be read or does not fit. */
static ssize_t read_state(void) {
    size_t have = 0;
    for (;;) {
        ssize_t got = read(STDIN_FILENO, state + have, sizeof state - have);
        if (got == 0) return have > 0 ? (ssize_t)have : -1;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        have += (size_t)got;
        if (have == sizeof state) return -1;
    }
}

int main(int count, char **arguments) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (count != 3) return fail("usage: aios-hook SOCKET CLAIM-UID < OCI-state", "");
    if (strlen(arguments[1]) >= sizeof address.sun_path) return fail("the path of the socket is too long: ", arguments[1]);
    strcpy(address.sun_path, arguments[1]);
    deadline_ms = now_ms() + DEADLINE_MS;
    ssize_t state_bytes = read_state();
    if (state_bytes < 0) return fail("standard input must hold the OCI state of the container, at most 1 MiB", "");
    for (;;) {
        enum answer answer = ask(&address, arguments[2], (size_t)state_bytes);
        if (answer == OK) return 0;
        if (answer == REFUSED) return fail("the node agent refused this container: ", line + 8);
        if (deadline_ms - now_ms() <= PAUSE_MS) return fail("no answer from the node agent for 30 s, is aios-node running on this node? Asked on ", arguments[1]);
        poll(0, 0, PAUSE_MS);
    }
}
