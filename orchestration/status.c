/* status.c - `tyto status`: the processes of a running `tyto up`; or is a gateway anywhere ready? */
#include "orchestration/commands.h"
#include "orchestration/readiness.h"
#include "orchestration/state.h"
#include "orchestration/status.h"

#include "common/base/file.h"
#include "common/base/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STATUS_BYTES_MAX = 1 << 20, WAIT_STEPS = 40, WAIT_STEP_NS = 50000000 };

/* A supervisor that has just taken its lock writes the file a moment later: wait for it a little. */
static ty_status read_file(const char *dir, const char *path, char **text, size_t *size, pid_t *pid,
                           ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < WAIT_STEPS; i++) {
        st = state_owner(dir, pid, err);
        if (st != TY_OK) return st;
        st = ty_file_read(path, STATUS_BYTES_MAX, text, size, err);
        if (st != TY_ENOTFOUND) return st;
        nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_NS}, NULL);
    }
    return st;
}

ty_status status_read(const char *dir, json_t **out, pid_t *pid, ty_err *err) {
    char path[STATE_PATH], *text = NULL;
    size_t size = 0;
    json_error_t why;
    if (!state_path(dir, "status.json", path))
        return ty_fail(err, TY_EINVAL, "%s: the path is too long", dir);
    ty_status st = read_file(dir, path, &text, &size, pid, err);
    if (st != TY_OK) return st;
    *out = json_loadb(text, size, 0, &why);
    free(text);
    return *out ? TY_OK : ty_fail(err, TY_EFORMAT, "%s: %s", path, why.text);
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_table(const json_t *all, const char *dir) {
    size_t i;
    json_t *p;
    printf("%s  (%s)\n", dir, text_of(all, "state"));
    const char *waiting = text_of(all, "waiting_for");
    if (*waiting) printf("waiting for: %s\n", waiting);
    printf("%-14s %8s  %-11s %8s  %s\n", "process", "pid", "state", "restarts", "model");
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        printf("%-14s %8d  %-11s %8d  %s\n", text_of(p, "name"),
               (int)json_integer_value(json_object_get(p, "pid")), text_of(p, "state"),
               (int)json_integer_value(json_object_get(p, "restarts")), text_of(p, "model"));
    }
}

static int print_json(const json_t *all) {
    char *text = json_dumps(all, JSON_INDENT(1));
    if (!text) {
        fprintf(stderr, "tyto status: out of memory\n");
        return 1;
    }
    puts(text);
    free(text);
    return 0;
}

/* For health checks: one line, and the exit code. */
static int ask_gateway(const char *url) {
    char name[GATEWAY_NAME], why[SUPERVISOR_PROBE_TEXT] = "";
    bool ready = gateway_ready(url, name, why);
    if (ready)
        printf("%s is ready\n", name);
    else
        fprintf(stderr, "tyto status: %s is not ready: %s\n", url, why);
    return ready ? 0 : 1;
}

int cmd_status(int argc, char **argv) {
    static struct {
        const char *state, *url;
        bool json;
    } opt;
    static const ty_option table[] = {
        TY_OPT_STR("state", "TYTO_STATE", opt.state, NULL, "DIR", "state directory of `tyto up`"),
        TY_OPT_FLAG("json", NULL, opt.json, "print JSON: {\"processes\": [...]}"),
        TY_OPT_STR("url", NULL, opt.url, NULL, "URL",
                   "instead: is the gateway at http://HOST:PORT ready?  For health checks"),
        TY_OPT_END};
    ty_options_next next =
        ty_options_parse(table, "tyto status [--json] [--state DIR] | tyto status --url URL",
                         "Lists the processes of a running `tyto up`.  Exit code 1 when none runs "
                         "(--url: not ready).",
                         argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (opt.url) return ask_gateway(opt.url);
    char dir[STATE_PATH];
    ty_err err = {0};
    json_t *all = NULL;
    pid_t pid;
    ty_status st = state_resolve(opt.state, dir, &err);
    if (st == TY_OK) st = status_read(dir, &all, &pid, &err);
    if (st != TY_OK) {
        fprintf(stderr, "tyto status: %s\n", err.text);
        return 1;
    }
    int rc = 0;
    if (opt.json)
        rc = print_json(all);
    else
        print_table(all, dir);
    json_decref(all);
    return rc;
}
