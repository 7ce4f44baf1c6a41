/*
 * wire_rig.h - a broker process, toy workers and a gateway played by the test itself.
 *
 * The gateway's connection is one DEALER in the test's thread: it beats while the test waits in one of
 * the rig_ functions, so tests wait there and nowhere else.
 */
#ifndef TY_TEST_WIRE_RIG_H
#define TY_TEST_WIRE_RIG_H

#include "common/wire/message.h"
#include "tests/support/toy_worker.h"

enum { RIG_WORKERS_MAX = 8, RIG_WAIT_S = 20 };

typedef struct {
    const char *dir;
    char gateways[256], workers[256]; /* endpoints */
    pid_t broker;
    pid_t worker[RIG_WORKERS_MAX];
    void *zmq, *socket; /* the test as a gateway */
    uint64_t incarnation;
    int64_t beat_us;
    bool ready; /* the last Welcome's first pipeline */
    char reason[512];
    uint32_t stage_workers[4], in_flight[4], queued[4]; /* and its stages */
    int n_redispatched;
    int goodbyes;
    bool draining;     /* the broker said so */
    int pipeline_hops; /* of the itinerary that hello names: stages "a", "b", "c"... */
    const char *const *stage, *const *model; /* or these; NULL: the letters */
} rig;

/* Starts the broker with these extra options (NULL-ended, may be NULL) and says hello as a gateway of
 * the pipeline "toy": the first `hops` of the stages a, b, c. */
void rig_start(rig *r, int hops, const char *const *broker_options);
/* The same with other stages and model identities; both borrowed until rig_stop. */
void rig_start_of(rig *r, int hops, const char *const *stage, const char *const *model,
                  const char *const *broker_options);
/* Ends what is left: broker by SIGTERM (must end with 0), workers by SIGTERM. */
void rig_stop(rig *r);
void rig_broker_start(rig *r, const char *const *options);
/* Slot i: worker "<stage>.<i>".  Fields of `t` left NULL: connect, takes and gives by the stage's
 * letter ("a" takes "t_a" and gives "t_b"), worker by the slot. */
void rig_worker(rig *r, int i, const char *stage, test_toy t);
void rig_worker_kill(rig *r, int i, int sig); /* SIGKILL or so: reaped */
void rig_hello(rig *r);
/* Drops the gateway's connection and makes a new one (its hello said). */
void rig_reconnect(rig *r);

/* A task for all stages that carries nothing yet. */
ty_message *rig_empty_task(const rig *r, const char *id, int part);
/* A task for the first `hops` stages (one tensor "t_a" [1,4], its first element `value`). */
ty_message *rig_task(const rig *r, const char *id, int part, float value);
void rig_send(rig *r, ty_message *m);
void rig_submit(rig *r, const char *id, int part, float value); /* both */
void rig_cancel(rig *r, const char *id, int part);
/* The next message that is not a heartbeat, a Welcome (kept in *r) or a Redispatched (counted); NULL
 * after timeout_ms. */
ty_message *rig_wait(rig *r, int timeout_ms);
/* The same, and it must come and have that body. */
ty_message *rig_expect(rig *r, Tyto__Envelope__BodyCase body);
/* Expects an Error with that status whose text holds `says`. */
void rig_expect_error(rig *r, ty_status want, const char *says);
/* Waits until the pipeline is (not) ready / stage i has n workers. */
void rig_wait_ready(rig *r, bool ready);
void rig_wait_workers(rig *r, int stage, uint32_t n);
/* Asks for the state until stage i has n tasks in flight. */
void rig_wait_in_flight(rig *r, int stage, uint32_t n);
/* The first float of the message's first tensor, its checksum verified. */
float rig_value(ty_message *m);
/* Does a log of this rig hold the text? who: "broker", "a.0". */
bool rig_log_has(const rig *r, const char *who, const char *text);

#endif
