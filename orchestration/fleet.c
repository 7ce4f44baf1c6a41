/* fleet.c - see fleet.h. */
#include "orchestration/fleet.h"

#include <errno.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PHASE_GATEWAY, PHASE_STAGE, PHASE_BROKER };

ty_status fleet_parse_listen(fleet *f, const char *listen, ty_err *err) {
    const char *colon = strrchr(listen, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    size_t n = colon ? (size_t)(colon - listen) : 0;
    if (!colon || n == 0 || n >= sizeof(f->host) || end == colon + 1 || *end || port < 1 ||
        port > 65535)
        return ty_fail(err, TY_EINVAL, "--listen \"%s\" is not HOST:PORT, as in 127.0.0.1:8080",
                       listen);
    bool brackets = listen[0] == '[' && listen[n - 1] == ']';
    snprintf(f->host, sizeof(f->host), "%.*s", (int)(brackets ? n - 2 : n), listen + brackets);
    f->port = (int)port;
    return TY_OK;
}

ty_status fleet_bin_dir(char out[STATE_PATH], ty_err *err) {
    char exe[STATE_PATH];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (n <= 0) return ty_fail(err, TY_EIO, "/proc/self/exe: %s", strerror(errno));
    exe[n] = '\0';
    snprintf(out, STATE_PATH, "%s", dirname(exe));
    return TY_OK;
}

ty_status fleet_load(fleet *f, ty_err *err) {
    ty_status st = fleet_bin_dir(f->bin_dir, err);
    if (st != TY_OK) return st;
    f->pipeline = calloc((size_t)f->n_pipeline, sizeof(*f->pipeline));
    if (!f->pipeline) return ty_fail(err, TY_ENOMEM, "out of memory for the pipelines");
    for (int i = 0; i < f->n_pipeline; i++) {
        st = ty_pipeline_load(&f->pipeline[i], f->pipeline_dir[i], err);
        if (st != TY_OK) return st;
        for (int k = 0; k < i; k++)
            if (strcmp(f->pipeline[k].name, f->pipeline[i].name) == 0)
                return ty_fail(err, TY_EEXIST,
                               "%s and %s are both named \"%s\"; the name is the directory's, and "
                               "must be unique: rename one",
                               f->pipeline_dir[k], f->pipeline_dir[i], f->pipeline[i].name);
    }
    return TY_OK;
}

void fleet_clear(fleet *f) {
    free(f->pipeline);
    f->pipeline = NULL;
}

/* ---- addresses ---- */

static ty_status try_bind(const char *host, int port, int *bound, ty_err *err) {
    char service[16];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(host, service, &hint, &list);
    if (rc != 0) return ty_fail(err, TY_EINVAL, "--listen host %s: %s", host, gai_strerror(rc));
    int one = 1, why = 0;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
              bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, 1) == 0;
    if (!ok) why = errno;
    struct sockaddr_in in;
    socklen_t size = sizeof(in);
    if (ok && bound && getsockname(fd, (struct sockaddr *)&in, &size) == 0)
        *bound = ntohs(in.sin_port);
    if (fd >= 0) close(fd);
    freeaddrinfo(list);
    if (ok) return TY_OK;
    if (why == EADDRINUSE)
        return ty_fail(err, TY_EIO,
                       "port %d on %s is taken by another program; choose another with --listen "
                       "%s:%d (make run: PORT=%d)",
                       port, host, host, port < 65000 ? port + 1 : 8080,
                       port < 65000 ? port + 1 : 8080);
    return ty_fail(err, TY_EIO, "cannot listen on %s:%d: %s", host, port, strerror(why));
}

ty_status fleet_check_ports(const fleet *f, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < f->gateways && st == TY_OK; i++)
        st = try_bind(f->host, f->port + i, NULL, err);
    return st;
}

static ty_status choose_tcp(char out[STATE_ENDPOINT], ty_err *err) {
    int port = 0;
    ty_status st = try_bind("127.0.0.1", 0, &port, err);
    snprintf(out, STATE_ENDPOINT, "tcp://127.0.0.1:%d", port);
    return st;
}

ty_status fleet_choose_endpoints(fleet *f, const char *run_dir, ty_err *err) {
    if (strcmp(f->transport, "tcp") == 0) {
        ty_status st = choose_tcp(f->workers_endpoint, err);
        return st == TY_OK ? choose_tcp(f->gateways_endpoint, err) : st;
    }
    int n = snprintf(f->workers_endpoint, STATE_ENDPOINT, "ipc://%s/workers.sock", run_dir);
    int m = snprintf(f->gateways_endpoint, STATE_ENDPOINT, "ipc://%s/gateways.sock", run_dir);
    if (n >= STATE_ENDPOINT || m >= STATE_ENDPOINT)
        return ty_fail(err, TY_EINVAL, "%s: the path is too long for a socket", run_dir);
    return TY_OK;
}

void fleet_url(const fleet *f, int gateway, char *out, size_t size) {
    const char *host = f->host;
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0) host = "127.0.0.1";
    if (strcmp(host, "::") == 0) host = "::1";
    bool v6 = strchr(host, ':') != NULL;
    snprintf(out, size, "http://%s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "", f->port + gateway);
}

/* ---- processes ---- */

static ty_status start_child(const fleet *f, supervisor_child *c, const char *stage, int index,
                             ty_err *err) {
    char program[STATE_PATH + 64];
    *c = (supervisor_child){.stop_phase = PHASE_STAGE};
    snprintf(c->name, sizeof(c->name), "%s.%d", stage, index);
    snprintf(c->stage, sizeof(c->stage), "%s", stage);
    snprintf(program, sizeof(program), "%s/tyto-%s", f->bin_dir, stage);
    if (access(program, X_OK) != 0)
        return ty_fail(err, TY_ENOTFOUND,
                       "%s: %s; the programs lie beside `tyto`: build them with "
                       "`make`",
                       program, strerror(errno));
    return supervisor_arg(c, program, err);
}

/* --flag value, when there is a value. */
static ty_status add_option(supervisor_child *c, const char *flag, const char *value, ty_err *err) {
    if (!value || !*value) return TY_OK;
    ty_status st = supervisor_arg(c, flag, err);
    return st == TY_OK ? supervisor_arg(c, value, err) : st;
}

static ty_status add_broker(const fleet *f, supervisor *s, ty_err *err) {
    supervisor_child c;
    ty_status st = start_child(f, &c, "broker", 0, err);
    c.stop_phase = PHASE_BROKER;
    if (st == TY_OK) st = add_option(&c, "--workers", f->workers_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--gateways", f->gateways_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

static ty_status add_gateway(const fleet *f, int index, supervisor *s, ty_err *err) {
    supervisor_child c;
    char listen[300];
    bool v6 = strchr(f->host, ':') != NULL;
    snprintf(listen, sizeof(listen), "%s%s%s:%d", v6 ? "[" : "", f->host, v6 ? "]" : "",
             f->port + index);
    ty_status st = start_child(f, &c, "gateway", index, err);
    c.stop_phase = PHASE_GATEWAY;
    if (st == TY_OK) st = add_option(&c, "--connect", f->gateways_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--name", c.name, err);
    if (st == TY_OK) st = add_option(&c, "--listen", listen, err);
    for (int i = 0; i < f->n_pipeline && st == TY_OK; i++)
        st = add_option(&c, "--pipeline", f->pipeline_dir[i], err);
    if (st == TY_OK) st = add_option(&c, "--timeout-s", f->timeout, err);
    if (st == TY_OK) st = add_option(&c, "--drain-s", f->drain, err);
    if (st == TY_OK) st = add_option(&c, "--api-key-file", f->api_key_file, err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

/* What each stage takes from the run options, beside what all workers take. */
static ty_status add_run_options(const fleet *f, ty_stage_kind k, supervisor_child *c,
                                 ty_err *err) {
    ty_status st = TY_OK;
    if (k != TY_STAGE_PREPROCESS) {
        st = add_option(c, "--threads", f->threads, err);
        if (st == TY_OK) st = add_option(c, "--compute", f->compute, err);
    }
    if (k == TY_STAGE_DECODER) {
        if (st == TY_OK) st = add_option(c, "--kv", f->kv, err);
        if (st == TY_OK) st = add_option(c, "--context", f->context, err);
        if (st == TY_OK) st = add_option(c, "--kv-mib", f->kv_mib, err);
        if (st == TY_OK) st = add_option(c, "--batch", f->max_rows, err);
    } else if (st == TY_OK) {
        st = add_option(c, "--batch", f->batch, err);
    }
    return st;
}

static ty_status add_worker(const fleet *f, const ty_pipeline *p, ty_stage_kind k, int index,
                            supervisor *s, ty_err *err) {
    supervisor_child c;
    ty_status st = start_child(f, &c, ty_stage_name(k), index, err);
    snprintf(c.model, sizeof(c.model), "%s", p->name);
    snprintf(c.model_id, sizeof(c.model_id), "%s", p->model_id[k]);
    if (st == TY_OK) st = add_option(&c, "--model", p->path[k], err);
    if (st == TY_OK) st = add_option(&c, "--connect", f->workers_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--worker", c.name, err);
    if (st == TY_OK) st = add_option(&c, "--pipeline", p->name, err);
    if (st == TY_OK) st = add_run_options(f, k, &c, err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

static ty_status add_stage(const fleet *f, ty_stage_kind k, supervisor *s, ty_err *err) {
    ty_status st = TY_OK;
    int index = 0;
    for (int p = 0; p < f->n_pipeline; p++) {
        if (!f->pipeline[p].path[k][0]) continue; /* a text-only pipeline has no vision */
        for (int i = 0; i < f->workers[k] && st == TY_OK; i++)
            st = add_worker(f, &f->pipeline[p], k, index++, s, err);
    }
    return st;
}

ty_status fleet_add(const fleet *f, supervisor *s, ty_err *err) {
    ty_status st = add_broker(f, s, err);
    for (int k = 0; k < TY_STAGE_COUNT && st == TY_OK; k++) st = add_stage(f, k, s, err);
    for (int i = 0; i < f->gateways && st == TY_OK; i++) st = add_gateway(f, i, s, err);
    return st;
}
