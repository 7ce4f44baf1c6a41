/* redis.c - see redis.h. */
#include "tests/support/ty_test.h"

#include "tests/support/redis.h"

#include "tests/support/process.h"

#include "common/store/redis.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static int answers(const char *url) {
    ty_redis *c;
    redisReply *reply = NULL;
    const char *argv[] = {"PING"};
    size_t len[] = {4};
    if (ty_redis_create(&c, url, 500, NULL) != TY_OK) return 0;
    int yes = ty_redis_command(c, 1, argv, len, &reply, NULL) == TY_OK;
    if (reply) freeReplyObject(reply);
    ty_redis_destroy(&c);
    return yes;
}

void test_redis_start(test_redis *r, const char *dir, int durable) {
    if (dir != r->dir) snprintf(r->dir, sizeof(r->dir), "%s", dir);
    snprintf(r->url, sizeof(r->url), "unix://%s/redis.sock", r->dir);
    char *argv[] = {(char *)"/usr/bin/redis-server",
                    (char *)"--port",
                    (char *)"0",
                    (char *)"--unixsocket",
                    r->url + strlen("unix://"),
                    (char *)"--dir",
                    r->dir,
                    (char *)"--save",
                    (char *)"",
                    (char *)"--appendonly",
                    (char *)(durable ? "yes" : "no"),
                    (char *)"--appendfsync",
                    (char *)"always",
                    NULL};
    r->pid = test_spawn(argv, NULL);
    for (int i = 0; i < 500 && !answers(r->url); i++) test_nap_ms(10);
    assert_true(answers(r->url));
}

void test_redis_kill(test_redis *r) {
    test_stop(r->pid, SIGKILL, 5);
}
