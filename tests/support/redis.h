/* redis.h - a private redis-server for a test, on a unix socket in a temporary directory. */
#ifndef TY_TEST_REDIS_H
#define TY_TEST_REDIS_H

#include <sys/types.h>

typedef struct {
    pid_t pid;
    char url[128]; /* unix:///tmp/.../redis.sock */
    char dir[64];
} test_redis;

/* Starts one and waits until it answers; append-only when `durable`.  The same dir again: its data are there. */
void test_redis_start(test_redis *r, const char *dir, int durable);
void test_redis_kill(test_redis *r); /* SIGKILL */

#endif
