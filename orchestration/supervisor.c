/* supervisor.c - see supervisor.h. */
#include "orchestration/supervisor.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CHILDREN_MAX = 256,
    QUICK_DEATHS_AT_START = 3, /* so often dead before we were ever ready: give the start up */
    QUICK_DEATHS_FAILING = 5,  /* from here on status says "failing" */
    BACKOFF_MS = 100,
    BACKOFF_MAX_MS = 5000,
    SETTLED_MS = 10000, /* who lived so long starts with a clean record */
    PROBE_MS = 50,      /* between probes during the start */
    PROBE_AGAIN_MS = 500,
    LOG_KEEP_BYTES = 16 << 20, /* an older log is moved to NAME.log.1 at a start */
    USAGE_EXIT = 2,
};

typedef enum {
    CHILD_STARTING,
    CHILD_RUNNING,
    CHILD_RESTARTING,
    CHILD_FAILING,
    CHILD_STOPPED
} child_state;
static const char *const state_names[] = {"starting", "running", "restarting", "failing",
                                          "stopped"};

typedef struct {
    supervisor_child spec;
    char log_path[STATE_PATH];
    pid_t pid; /* 0: no process now */
    child_state state;
    int restarts, quick_deaths;
    int64_t started_us, start_again_us;
} child;

struct supervisor {
    supervisor_options opt;
    child *children[CHILDREN_MAX];
    int n;
    int signal_fd;
    sigset_t old_mask;
    bool ready, stopping, dirty;
    int stop_phase;
    int64_t begun_us, next_probe_us, kill_us;
    pid_t command_pid;
    char probe_text[SUPERVISOR_PROBE_TEXT];
    ty_status end_status;
    ty_err end;
};

ty_status supervisor_arg(supervisor_child *c, const char *text, ty_err *err) {
    int n = 0;
    while (n < SUPERVISOR_ARGS_MAX && c->argv[n]) n++;
    if (n >= SUPERVISOR_ARGS_MAX - 1)
        return ty_fail(err, TY_ELIMIT, "%s: more than %d arguments", c->name, n);
    c->argv[n] = strdup(text);
    return c->argv[n] ? TY_OK : ty_fail(err, TY_ENOMEM, "%s: out of memory", c->name);
}

void supervisor_child_clear(supervisor_child *c) {
    for (int i = 0; i < SUPERVISOR_ARGS_MAX; i++) free(c->argv[i]);
    memset(c->argv, 0, sizeof(c->argv));
}

ty_status supervisor_create(supervisor **out, const supervisor_options *opt, ty_err *err) {
    supervisor *s = calloc(1, sizeof(*s));
    if (!s) return ty_fail(err, TY_ENOMEM, "out of memory for the supervisor");
    s->opt = *opt;
    if (s->opt.stop_ms <= 0) s->opt.stop_ms = 10000;
    s->signal_fd = -1;
    *out = s;
    return TY_OK;
}

void supervisor_destroy(supervisor **ps) {
    supervisor *s = *ps;
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        supervisor_child_clear(&s->children[i]->spec);
        free(s->children[i]);
    }
    free(s);
    *ps = NULL;
}

ty_status supervisor_add(supervisor *s, supervisor_child *c, ty_err *err) {
    if (s->n == CHILDREN_MAX)
        return ty_fail(err, TY_ELIMIT, "more than %d processes", CHILDREN_MAX);
    char name[STATE_PATH];
    child *k = calloc(1, sizeof(*k));
    if (!k) return ty_fail(err, TY_ENOMEM, "%s: out of memory", c->name);
    snprintf(name, sizeof(name), "log/%s.log", c->name);
    if (!state_path(s->opt.state->dir, name, k->log_path)) {
        free(k);
        return ty_fail(err, TY_EINVAL, "%s: the log's path is too long", c->name);
    }
    k->spec = *c;
    memset(c->argv, 0, sizeof(c->argv));
    s->children[s->n++] = k;
    return TY_OK;
}

/* ---- what status says ---- */

static json_t *child_json(const child *k) {
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:i, s:s}", "stage", k->spec.stage, "name",
                     k->spec.name, "pid", (int)k->pid, "model", k->spec.model, "model_id",
                     k->spec.model_id, "state", state_names[k->state], "restarts", k->restarts,
                     "log", k->log_path);
}

static void write_status(supervisor *s) {
    char path[STATE_PATH];
    json_t *list = json_array();
    for (int i = 0; i < s->n; i++) (void)json_array_append_new(list, child_json(s->children[i]));
    const char *state = s->stopping ? "stopping" : s->ready ? "ready" : "starting";
    json_t *all = json_pack("{s:i, s:s, s:s, s:o}", "pid", (int)getpid(), "state", state,
                            "waiting_for", s->ready ? "" : s->probe_text, "processes", list);
    char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
    ty_err err = {0};
    if (!text || !state_path(s->opt.state->dir, "status.json", path))
        ty_error("status cannot be written: out of memory");
    else if (ty_file_write_atomic(path, text, strlen(text), &err) != TY_OK)
        ty_error("status cannot be written: %s", err.text);
    free(text);
    json_decref(all);
    s->dirty = false;
}

/* ---- starting ---- */

/* In the child, between fork and exec. */
static void prepare_child(const supervisor *s, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it died before we asked */
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, &s->old_mask, NULL);
    signal(SIGPIPE, SIG_DFL);
}

static void rotate_log(const char *path) {
    struct stat sb;
    char old[STATE_PATH + 8];
    if (stat(path, &sb) != 0 || sb.st_size < LOG_KEEP_BYTES) return;
    snprintf(old, sizeof(old), "%s.1", path);
    (void)rename(path, old);
}

static void spawn_failed(child *k, int why) {
    ty_error("proc=%s cannot start: %s", k->spec.name, strerror(why));
    k->quick_deaths++;
    k->start_again_us = ty_now_us() + (int64_t)BACKOFF_MAX_MS * 1000;
}

static void spawn(supervisor *s, child *k) {
    rotate_log(k->log_path);
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int log = open(k->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t parent = getpid();
    pid_t pid = in >= 0 && log >= 0 ? fork() : -1;
    int why = errno;
    if (pid == 0) {
        prepare_child(s, parent);
        /* Whoever comes after us waits until this process is gone too: state.c. */
        if (s->opt.state->lock_fd > 2) (void)fcntl(s->opt.state->lock_fd, F_SETFD, 0);
        if (dup2(in, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(1);
        execv(k->spec.argv[0], k->spec.argv);
        dprintf(2, "exec %s: %s\n", k->spec.argv[0], strerror(errno));
        _exit(USAGE_EXIT);
    }
    if (in >= 0) close(in);
    if (log >= 0) close(log);
    s->dirty = true;
    if (pid < 0) {
        spawn_failed(k, why);
        return;
    }
    k->pid = pid;
    k->state = CHILD_STARTING;
    k->started_us = ty_now_us();
    k->start_again_us = 0;
    ty_info("proc=%s pid=%d started", k->spec.name, (int)pid);
}

static void spawn_command(supervisor *s) {
    pid_t parent = getpid();
    fflush(NULL);
    s->command_pid = fork();
    if (s->command_pid == 0) {
        prepare_child(s, parent);
        execl("/bin/sh", "sh", "-c", s->opt.command, (char *)NULL);
        _exit(127);
    }
    if (s->command_pid < 0) {
        s->command_pid = 0;
        ty_error("fork: %s", strerror(errno));
    } else {
        (void)setpgid(s->command_pid, s->command_pid); /* both sides set it: no race with kill */
    }
}

/* ---- dying ---- */

/* The last line of a child's log that says something, without its newline. */
static void last_log_line(const child *k, char *out, size_t size) {
    char tail[2048];
    out[0] = '\0';
    int fd = open(k->log_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    off_t end = lseek(fd, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(tail) - 1 ? end - (off_t)sizeof(tail) + 1 : 0;
    ssize_t n = pread(fd, tail, sizeof(tail) - 1, from);
    close(fd);
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == '\r')) n--;
    if (n <= 0) return;
    tail[n] = '\0';
    const char *line = strrchr(tail, '\n');
    snprintf(out, size, "%.*s", (int)size - 1, line ? line + 1 : tail);
}

/* The first reason to end is the one that counts. */
__attribute__((format(printf, 3, 4))) static void end_with(supervisor *s, ty_status st,
                                                           const char *fmt, ...) {
    va_list ap;
    if (s->end_status != TY_OK) return;
    s->end_status = s->end.code = st;
    va_start(ap, fmt);
    (void)vsnprintf(s->end.text, sizeof(s->end.text), fmt, ap);
    va_end(ap);
}

static void how_it_ended(int status, char *out, size_t size) {
    if (WIFSIGNALED(status))
        snprintf(out, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "exit status %d", WEXITSTATUS(status));
}

/* A start that cannot succeed ends the supervisor with what the child's log says. */
static void give_up_start(supervisor *s, const child *k, const char *how) {
    char line[240];
    last_log_line(k, line, sizeof(line));
    end_with(s, TY_EUNAVAILABLE, "%s does not start (%s): %s (log: %s)", k->spec.name, how, line,
             k->log_path);
}

static int64_t backoff_us(int quick_deaths) {
    if (quick_deaths <= 1) return 0;
    int64_t ms = BACKOFF_MS;
    for (int i = 2; i < quick_deaths && ms < BACKOFF_MAX_MS; i++) ms *= 2;
    return (ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS) * 1000;
}

static void child_died(supervisor *s, child *k, int status) {
    char how[64];
    int64_t now = ty_now_us();
    how_it_ended(status, how, sizeof(how));
    s->dirty = true;
    if (s->stopping) {
        ty_info("proc=%s pid=%d ended: %s", k->spec.name, (int)k->pid, how);
        k->pid = 0;
        k->state = CHILD_STOPPED;
        return;
    }
    ty_warn("proc=%s pid=%d died: %s", k->spec.name, (int)k->pid, how);
    k->quick_deaths = now - k->started_us > (int64_t)SETTLED_MS * 1000 ? 1 : k->quick_deaths + 1;
    k->pid = 0;
    k->restarts++;
    k->state = k->quick_deaths >= QUICK_DEATHS_FAILING ? CHILD_FAILING : CHILD_RESTARTING;
    k->start_again_us = now + backoff_us(k->quick_deaths);
    bool usage = WIFEXITED(status) && WEXITSTATUS(status) == USAGE_EXIT;
    if (!s->ready && (usage || k->quick_deaths >= QUICK_DEATHS_AT_START)) give_up_start(s, k, how);
}

static void command_died(supervisor *s, int status) {
    char how[64];
    s->command_pid = 0;
    if (status == 0 || s->stopping) return;
    how_it_ended(status, how, sizeof(how));
    end_with(s, TY_EIO, "the command to run when ready failed: %s", how);
}

static void reap(supervisor *s) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == s->command_pid) command_died(s, status);
        for (int i = 0; i < s->n; i++)
            if (s->children[i]->pid == pid) child_died(s, s->children[i], status);
    }
}

/* ---- stopping: phase by phase, with a limit for each ---- */

static int alive_in_phase(const supervisor *s, int phase) {
    int alive = 0;
    for (int i = 0; i < s->n; i++)
        alive += s->children[i]->spec.stop_phase == phase && s->children[i]->pid > 0;
    return alive;
}

static int alive_all(const supervisor *s) {
    int alive = 0;
    for (int i = 0; i < s->n; i++) alive += s->children[i]->pid > 0;
    return alive;
}

static void signal_phase(supervisor *s, int phase, int sig) {
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->pid > 0 && s->children[i]->spec.stop_phase == phase)
            (void)kill(s->children[i]->pid, sig);
}

static int next_phase(const supervisor *s) {
    int best = -1;
    for (int i = 0; i < s->n; i++) {
        int p = s->children[i]->spec.stop_phase;
        if (s->children[i]->pid > 0 && (best < 0 || p < best)) best = p;
    }
    return best;
}

static void begin_phase(supervisor *s) {
    s->stop_phase = next_phase(s);
    if (s->stop_phase < 0) return;
    signal_phase(s, s->stop_phase, SIGTERM);
    s->kill_us = ty_now_us() + (int64_t)s->opt.stop_ms * 1000;
}

static void begin_stop(supervisor *s) {
    if (s->stopping) return;
    s->stopping = s->dirty = true;
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->pid == 0) s->children[i]->state = CHILD_STOPPED;
    if (s->command_pid > 0) (void)kill(-s->command_pid, SIGTERM);
    begin_phase(s);
}

static void go_on_stopping(supervisor *s) {
    if (!s->stopping) return;
    if (s->stop_phase < 0) {
        if (s->command_pid > 0) (void)kill(-s->command_pid, SIGKILL);
    } else if (alive_in_phase(s, s->stop_phase) == 0) {
        begin_phase(s);
    } else if (ty_now_us() >= s->kill_us) {
        ty_warn("phase=%d did not stop within %d ms: killed", s->stop_phase, s->opt.stop_ms);
        signal_phase(s, s->stop_phase, SIGKILL);
        s->kill_us = INT64_MAX;
    }
}

static void kill_all(supervisor *s) {
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->pid > 0) (void)kill(s->children[i]->pid, SIGKILL);
    if (s->command_pid > 0) (void)kill(-s->command_pid, SIGKILL);
}

/* ---- the loop ---- */

static void start_due(supervisor *s) {
    if (s->stopping) return;
    int64_t now = ty_now_us();
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->pid == 0 && now >= s->children[i]->start_again_us)
            spawn(s, s->children[i]);
}

static bool any_starting(const supervisor *s) {
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->state == CHILD_STARTING) return true;
    return false;
}

static void all_in_service(supervisor *s) {
    for (int i = 0; i < s->n; i++)
        if (s->children[i]->state == CHILD_STARTING) s->children[i]->state = CHILD_RUNNING;
    s->dirty = true;
    if (s->ready) return;
    s->ready = true;
    write_status(s); /* before the news, so that `tyto status` agrees with it */
    if (s->opt.on_ready) s->opt.on_ready(s->opt.ctx);
    if (s->opt.command) spawn_command(s);
}

static void probe(supervisor *s) {
    int64_t now = ty_now_us();
    if (s->stopping || now < s->next_probe_us || (s->ready && !any_starting(s))) return;
    char why[SUPERVISOR_PROBE_TEXT] = "";
    s->next_probe_us = now + (int64_t)(s->ready ? PROBE_AGAIN_MS : PROBE_MS) * 1000;
    if (alive_all(s) == s->n && s->opt.probe(s->opt.ctx, why)) {
        all_in_service(s);
    } else if (strcmp(why, s->probe_text) != 0) {
        memcpy(s->probe_text, why, sizeof(why));
        s->dirty = true;
    }
    bool late = s->opt.start_ms > 0 && now > s->begun_us + (int64_t)s->opt.start_ms * 1000;
    if (!s->ready && late)
        end_with(s, TY_ETIMEOUT, "not ready after %d ms: %s", s->opt.start_ms, s->probe_text);
}

static void read_signals(supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD) continue; /* reaped each turn */
        /* a terminal that goes away after Ctrl-C is not a second wish */
        if (info.ssi_signo == SIGHUP && (s->opt.ignore_hangup || s->stopping)) continue;
        ty_info("signal=%u stopping", info.ssi_signo);
        if (s->stopping)
            kill_all(s);
        else
            begin_stop(s);
    }
}

/* How long the loop may sleep: until the next thing that is due. */
static int sleep_ms(const supervisor *s) {
    int64_t now = ty_now_us(), due = now + 1000000;
    if (s->stopping) {
        if (s->kill_us < due) due = s->kill_us;
    } else {
        if ((!s->ready || any_starting(s)) && s->next_probe_us < due) due = s->next_probe_us;
        for (int i = 0; i < s->n; i++)
            if (s->children[i]->pid == 0 && s->children[i]->start_again_us < due)
                due = s->children[i]->start_again_us;
    }
    return due <= now ? 0 : (int)((due - now + 999) / 1000);
}

static ty_status take_signals(supervisor *s, ty_err *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, &s->old_mask) != 0)
        return ty_fail(err, TY_EIO, "sigprocmask: %s", strerror(errno));
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0) return ty_fail(err, TY_EIO, "signalfd: %s", strerror(errno));
    return TY_OK;
}

static bool finished(const supervisor *s) {
    return s->stopping && alive_all(s) == 0 && s->command_pid == 0;
}

static void loop(supervisor *s) {
    while (!finished(s)) {
        start_due(s);
        probe(s);
        if (s->end_status != TY_OK) begin_stop(s);
        go_on_stopping(s);
        if (s->dirty) write_status(s);
        struct pollfd p = {.fd = s->signal_fd, .events = POLLIN};
        (void)poll(&p, 1, sleep_ms(s));
        read_signals(s);
        reap(s);
    }
}

ty_status supervisor_run(supervisor *s, ty_err *err) {
    ty_status st = take_signals(s, err);
    if (st != TY_OK) return st;
    s->begun_us = ty_now_us();
    loop(s);
    close(s->signal_fd);
    if (s->end_status != TY_OK && err) *err = s->end;
    return s->end_status;
}
