/* credit.c - see credit.h. */
#include "common/wire/credit.h"

static uint32_t window(const ty_credit *c) {
    return c->held + c->granted;
}

/* Brokers that share the places; i, which is being greeted, is one of them (-1: nobody is). */
static uint32_t count_live(const ty_credit *c, int n, int i) {
    uint32_t live = 0;
    for (int k = 0; k < n; k++) live += c[k].live || k == i;
    return live;
}

static uint32_t at_least_one(uint32_t n) {
    return n > 0 ? n : 1;
}

/* Tasks of a broker that is gone take their places until they end.  There is one place for each broker at
 * least: else those that are idle would hold all, and the others starve. */
static uint32_t free_places(const ty_credit *c, int n, uint32_t places) {
    uint32_t used = 0, live = count_live(c, n, -1);
    if (places < live) places = live;
    for (int k = 0; k < n; k++) used += window(&c[k]);
    return places > used ? places - used : 0;
}

void ty_credit_begin(ty_credit *c, int n, int i, uint32_t places) {
    uint32_t share = at_least_one(places / count_live(c, n, i));
    c[i].granted = 0;
    uint32_t room = free_places(c, n, places), most = share > c[i].held ? share - c[i].held : 0;
    /* One in any case: without it, it could not even show that it is hungry. */
    c[i].granted = at_least_one(room < most ? room : most);
}

void ty_credit_take(ty_credit *c, int i) {
    c[i].held++;
    if (c[i].granted > 0) c[i].granted--;
}

/* The live broker with the smallest window that has no credit left; -1: none.  Among equals `first`. */
static int find_hungry(const ty_credit *c, int n, uint32_t reserve, int first) {
    int best = -1;
    for (int k = 0; k < n; k++) {
        if (!c[k].live || (c[k].granted > 0 && window(&c[k]) >= reserve)) continue;
        if (best < 0 || window(&c[k]) < window(&c[best]) ||
            (k == first && window(&c[k]) == window(&c[best])))
            best = k;
    }
    return best;
}

static uint32_t reserve_of(const ty_credit *c, int n, uint32_t places) {
    return at_least_one(places / (2 * at_least_one(count_live(c, n, -1))));
}

uint32_t ty_credit_release(ty_credit *c, int n, int i, uint32_t places) {
    if (c[i].held > 0) c[i].held--;
    if (!c[i].live || free_places(c, n, places) == 0) return 0;
    int hungry = find_hungry(c, n, reserve_of(c, n, places), i);
    if (hungry >= 0 && hungry != i) return 0; /* ty_credit_balance gives it away */
    c[i].granted++;
    return 1;
}

/* Takes half of what the richest idle broker has beyond its reserve; false: nobody has. */
static bool withdraw(ty_credit *c, int n, uint32_t reserve, int32_t *change) {
    int rich = -1;
    for (int k = 0; k < n; k++)
        if (c[k].live && c[k].granted > reserve && (rich < 0 || c[k].granted > c[rich].granted))
            rich = k;
    if (rich < 0) return false;
    uint32_t part = (c[rich].granted - reserve + 1) / 2;
    c[rich].granted -= part;
    change[rich] -= (int32_t)part;
    return true;
}

void ty_credit_balance(ty_credit *c, int n, uint32_t places, int32_t *change) {
    uint32_t reserve = reserve_of(c, n, places), room = free_places(c, n, places);
    for (int k = 0; k < n; k++) change[k] = 0;
    for (int hungry; (hungry = find_hungry(c, n, reserve, -1)) >= 0;) {
        if (room == 0 && !withdraw(c, n, reserve, change)) return;
        room = free_places(c, n, places);
        if (room == 0) return; /* it went to make up for what had been granted too much */
        /* One by one while several are hungry; the last one gets the rest. */
        c[hungry].granted++;
        change[hungry]++;
        room--;
        if (find_hungry(c, n, reserve, -1) >= 0) continue;
        c[hungry].granted += room / 2;
        change[hungry] += (int32_t)(room / 2);
        return;
    }
}
