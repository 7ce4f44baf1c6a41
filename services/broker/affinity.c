/* affinity.c - which worker had which beginnings of prompts last: a table of sets, each of which forgets what was
 * used longest ago in it. */
#include "services/broker/state.h"

#include <stdlib.h>

enum { SETS = 4096, WAYS = 8, KEYS_READ = 64 };

typedef struct {
    uint64_t key, used;    /* used: 0 = empty */
    broker_worker *worker; /* alive: a lost one is forgotten */
} entry;

struct broker_affinity {
    uint64_t clock;
    entry set[SETS][WAYS];
};

broker_affinity *broker_affinity_create(void) {
    return calloc(1, sizeof(broker_affinity));
}

void broker_affinity_destroy(broker_affinity **a) {
    free(*a);
    *a = NULL;
}

/* The task's keys, longest beginning first. */
static size_t keys_of(const broker_task *t, const uint64_t **key) {
    const Tyto__Envelope *e = t->m->env;
    const Tyto__DecodeTask *d = e->body_case == TYTO__ENVELOPE__BODY_TASK ? e->task->decode : NULL;
    *key = d ? d->prefix_keys : NULL;
    return !d ? 0 : d->n_prefix_keys < KEYS_READ ? d->n_prefix_keys : KEYS_READ;
}

static entry *find(broker_affinity *a, uint64_t key) {
    entry *set = a->set[key % SETS];
    for (int i = 0; i < WAYS; i++)
        if (set[i].used && set[i].key == key) return &set[i];
    return NULL;
}

static entry *oldest(broker_affinity *a, uint64_t key) {
    entry *set = a->set[key % SETS], *best = set;
    for (int i = 1; i < WAYS; i++)
        if (set[i].used < best->used) best = &set[i];
    return best;
}

void broker_affinity_note(broker_affinity *a, const broker_task *t, broker_worker *w) {
    const uint64_t *key;
    size_t n = keys_of(t, &key);
    for (size_t i = 0; i < n; i++) {
        entry *e = find(a, key[i]);
        if (!e) e = oldest(a, key[i]);
        *e = (entry){.key = key[i], .used = ++a->clock, .worker = w};
    }
}

broker_worker *broker_affinity_find(broker_affinity *a, const broker_task *t) {
    const uint64_t *key;
    size_t n = keys_of(t, &key);
    for (size_t i = 0; i < n; i++) {
        const entry *e = find(a, key[i]);
        if (e && e->worker->q == t->q) return e->worker;
    }
    return NULL;
}

void broker_affinity_forget(broker_affinity *a, const broker_worker *w) {
    for (int s = 0; s < SETS; s++)
        for (int i = 0; i < WAYS; i++)
            if (a->set[s][i].worker == w) a->set[s][i] = (entry){0};
}
