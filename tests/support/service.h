/*
 * service.h - a whole service in tests: `tyto up` in the background, its processes, and many questions at
 * once over HTTP.
 */
#ifndef TY_TEST_SERVICE_H
#define TY_TEST_SERVICE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    pid_t pid;       /* of `tyto up` */
    int port;        /* of the API */
    char state[128]; /* its directory */
    char url[64];    /* "http://127.0.0.1:PORT" */
    char log[160];   /* what `tyto up` itself printed */
} test_service;

/* A loopback port that nobody has now. */
int test_free_port(void);
/* `tyto import tests/golden/NAME` into a temporary directory, with extra options (NULL-ended, or NULL).
 * Borrowed until the test program ends. */
const char *test_import(const char *golden, const char *name, char *const *extra);
/* `tyto synth` into a temporary directory: a pipeline of random weights, slow enough for a test to meet it at work.
 * llm, vit, vit_layers: as `tyto synth --help` says; eight queries.  Borrowed until the test program ends. */
const char *test_synth(const char *name, const char *llm, const char *vit, const char *vit_layers);
/* Starts `tyto up --pipeline pipeline` and extra options (NULL-ended, or NULL), waits until it is ready;
 * fails the test with its log when it is not. */
test_service test_service_up(const char *pipeline, char *const *extra);
/* The same on the state directory and port of one that has ended. */
void test_service_again(test_service *s, const char *pipeline, char *const *extra);
/* SIGTERM; the exit code must be 0 within 60 s. */
void test_service_down(test_service *s);

/* `tyto status --json`; json_decref it.  NULL: not running. */
json_t *test_service_status(const test_service *s);
/* Process `name` ("vit.0"): its pid, and its restarts when that is not NULL; 0 = no such process now. */
pid_t test_service_pid(const test_service *s, const char *name, int *restarts);

/* One chat completion, and what came of it. */
typedef struct {
    const char *body;      /* request JSON */
    int status;            /* HTTP; 0 = no reply */
    char *text;            /* the answer, put together when it was streamed */
    char *logprobs;        /* "token logprob\n" of each that came, in order; "" = none */
    json_t *timings;       /* receipt */
    int finishes;          /* finish reasons that came: exactly 1 in an ordinary answer */
    char *raw;             /* the reply's body when it is no answer */
    char conversation[64]; /* its id, when the answer names one */
    atomic_int pieces;     /* texts that came so far, and */
    atomic_bool done;      /* whether all has come: for who looks on while others still run */
} test_question;

/* Asks all at once, a thread each, all set off together; joins them. */
void test_ask_all(const test_service *s, test_question *q, int n);
/* The same, but returns at once; test_ask_join waits. */
void *test_ask_begin(const test_service *s, test_question *q, int n);
void test_ask_join(void *handle);
void test_question_clear(test_question *q);

/* The receipt's largest `key` ("batch", "attempt") of a stage; 0 when the stage is not in it. */
int test_receipt_max(const json_t *timings, const char *stage, const char *key);
/* A picture file as a part of a message: {"type": "image_url", ...} with a data URL.  New reference. */
json_t *test_image_part(const char *path);
/* What `tyto run --raw` says to a whole prompt; images: one file for each "<image>" in it.  free() it. */
char *test_run_raw(const char *pipeline, const char *prompt, const char *const *images, int n,
                   int max_tokens);
/* A request: model, text, a picture file or NULL, more members ("\"max_tokens\": 8", or ""); free() it. */
char *test_request(const char *model, const char *text, const char *picture, const char *more);

#endif
