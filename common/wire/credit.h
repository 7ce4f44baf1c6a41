/*
 * credit.h - how a worker's places are divided among its brokers.
 *
 * A credit is a task that a broker may send without asking.  `places` tasks fit the worker; each is held (a
 * task is here), granted (a broker may fill it), or free.  A broker that has used its credits is hungry:
 * it gets what is free, and then what others have beyond their reserve (half an equal share).  So two busy
 * brokers come to equal parts, one busy broker gets nearly all, and an idle one can always begin at once.
 *
 * Numbers alone, no socket.  A broker may send a task while its credit is being withdrawn; then the worker
 * holds one more than it wished for a moment, and nothing else happens.
 */
#ifndef TY_WIRE_CREDIT_H
#define TY_WIRE_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

/* What the worker knows of one broker's credits. */
typedef struct {
    bool live; /* it has welcomed us; others are granted nothing */
    uint32_t held, granted;
} ty_credit;

/* Broker i is to be greeted: its granted is set to what the hello offers. */
void ty_credit_begin(ty_credit *c, int n, int i, uint32_t places);
/* A task of broker i came. */
void ty_credit_take(ty_credit *c, int i);
/* A task of broker i is answered; the credits that its answer grants (0 or 1). */
uint32_t ty_credit_release(ty_credit *c, int n, int i, uint32_t places);
/* Feeds the hungry: change[i] is what broker i is to be told (+ granted, - withdrawn). */
void ty_credit_balance(ty_credit *c, int n, uint32_t places, int32_t *change);

#endif
