/*
 * readiness.c - see readiness.h.
 *
 * Gateways that share a port cannot be asked one by one: the kernel spreads connections over them.  So the
 * address is asked until each name has answered.
 */
#include "orchestration/readiness.h"

#include "orchestration/http_client.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_TIMEOUT_MS = 1000, TRIES_PER_GATEWAY = 12 };

/* The first thing that /readyz says is missing: a broker, or a model's stage. */
static void what_is_missing(const json_t *all, char *why) {
    static const char *const lists[][2] = {{"brokers", "up"}, {"models", "ready"}};
    const char *reason = "not ready", *name = json_string_value(json_object_get(all, "gateway"));
    for (int k = 1; k >= 0; k--) {
        size_t at;
        json_t *one;
        json_array_foreach(json_object_get(all, lists[k][0]), at, one) {
            const char *text = json_string_value(json_object_get(one, "reason"));
            if (json_is_false(json_object_get(one, lists[k][1])) && text && *text) reason = text;
        }
    }
    snprintf(why, SUPERVISOR_PROBE_TEXT, "%.40s: %.200s", name ? name : "gateway", reason);
}

bool gateway_ready(const char *base, char *name, char *why) {
    char url[336];
    ty_err err = {0};
    http_reply reply;
    snprintf(url, sizeof(url), "%.320s/readyz", base);
    http_call call = {.url = url, .timeout_ms = PROBE_TIMEOUT_MS};
    ty_status st = http_client_call(&call, &reply, &err);
    json_t *all = st == TY_OK && reply.body.data
                      ? json_loadb(reply.body.data, reply.body.len, 0, NULL)
                      : NULL;
    const char *who = json_string_value(json_object_get(all, "gateway"));
    bool ready = st == TY_OK && reply.status == 200 && who;
    snprintf(name, GATEWAY_NAME, "%s", who ? who : "");
    if (st != TY_OK)
        snprintf(why, SUPERVISOR_PROBE_TEXT, "%.200s", err.text);
    else if (!ready)
        what_is_missing(all, why);
    json_decref(all);
    ty_buf_clear(&reply.body);
    return ready;
}

/* Which gateway answered that it is ready; -1: none, and why. */
static int ask_one(const char *base, char *why) {
    char name[GATEWAY_NAME];
    if (!gateway_ready(base, name, why)) return -1;
    return strncmp(name, "gateway.", 8) == 0 ? (int)strtol(name + 8, NULL, 10) : -1;
}

static bool address_ready(const fleet *f, int address, char *why) {
    char base[320];
    bool seen[FLEET_GATEWAYS_MAX] = {0};
    int sharers = fleet_sharers(f, address), left = sharers;
    fleet_url(f, address, base, sizeof(base));
    for (int i = 0; i < TRIES_PER_GATEWAY * sharers && left > 0; i++) {
        int who = ask_one(base, why);
        if (who < 0 || who >= f->gateways) return false;
        left -= !seen[who];
        seen[who] = true;
    }
    for (int i = address; left > 0 && i < f->gateways; i += f->n_address)
        if (!seen[i]) snprintf(why, SUPERVISOR_PROBE_TEXT, "gateway.%d does not answer yet", i);
    return left == 0;
}

bool fleet_ready(const fleet *f, char *why) {
    if (!stores_ready(&f->stores, why)) return false;
    for (int i = 0; i < f->n_address; i++)
        if (!address_ready(f, i, why)) return false;
    return true;
}
