/*
 * fleet.h - which processes `tyto up` runs for its pipelines, and with which arguments: the private
 * stores, the brokers, the gateways, and so many workers of each stage file.  Pipelines that name the
 * same file (the same identity) share its workers.
 */
#ifndef TY_FLEET_H
#define TY_FLEET_H

#include "common/model/pipeline.h"
#include "orchestration/stores.h"
#include "orchestration/supervisor.h"

enum { FLEET_PIPELINES_MAX = 16, FLEET_GATEWAYS_MAX = 16, FLEET_BROKERS_MAX = 8 };

typedef struct {
    char host[256];
    int port;
} fleet_address;

typedef struct {
    const char *pipeline_dir[FLEET_PIPELINES_MAX];
    ty_pipeline *pipeline; /* [n_pipeline], loaded by fleet_load */
    int n_pipeline;
    const char *const *adapter; /* [n_adapter] "[MODEL+]NAME=DIR"; gateways and decoders get them */
    int n_adapter;
    int workers[TY_STAGE_COUNT]; /* of each stage file */
    int gateways, brokers;
    fleet_address address[FLEET_GATEWAYS_MAX]; /* gateway i listens on address i % n_address */
    int n_address;
    stores stores;
    const char *transport; /* "ipc" | "tcp" */
    /* as given, NULL = the program's default */
    const char *threads, *compute, *kv, *context, *kv_mib, *batch, *max_rows;
    const char *api_key_file, *log_level, *timeout;
    char drain[16]; /* seconds that gateways and workers get for what is open at the end */
    char bin_dir[STATE_PATH]; /* where the programs are */
    /* of each broker: where workers and gateways connect */
    char workers_endpoint[FLEET_BROKERS_MAX][STATE_ENDPOINT];
    char gateways_endpoint[FLEET_BROKERS_MAX][STATE_ENDPOINT];
} fleet;

/* The directory that this program lies in, with its siblings. */
ty_status fleet_bin_dir(char out[STATE_PATH], ty_err *err);
/* "HOST:PORT" or "[HOST]:PORT", several with commas.  Fails: TY_EINVAL. */
ty_status fleet_parse_listen(fleet *f, const char *listen, ty_err *err);
/* Loads the pipelines (names must differ), checks that each adapter is one and has a pipeline, and finds the programs beside our own.  fleet_clear it. */
ty_status fleet_load(fleet *f, ty_err *err);
void fleet_clear(fleet *f);
/* "MODEL+NAME" of adapter i, after fleet_load. */
void fleet_adapter_model(const fleet *f, int i, char *out, size_t size);
/* Are the gateways' ports free?  TY_EIO names who is taken and the remedy. */
ty_status fleet_check_ports(const fleet *f, ty_err *err);
/* Chooses the brokers' endpoints (sockets in run_dir, or free loopback ports). */
ty_status fleet_choose_endpoints(fleet *f, const char *run_dir, ty_err *err);
/* Adds every process to the supervisor.  Stop phases: 0 gateways, 1 stages, 2 brokers, 3 stores. */
ty_status fleet_add(const fleet *f, supervisor *s, ty_err *err);
/* How many gateways share address i: their listening sockets have SO_REUSEPORT when it is more than one. */
int fleet_sharers(const fleet *f, int address);
/* "http://127.0.0.1:8080" of address i, as a client on this machine reaches it. */
void fleet_url(const fleet *f, int address, char *out, size_t size);

#endif
