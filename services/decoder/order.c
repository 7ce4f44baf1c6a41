/* order.c - see order.h. */
#include "services/decoder/order.h"

typedef struct {
    const llama_span *span;
    int n_span;
    bool multiway, visual; /* multiway: visual rows now, or the others */
    int *order;
    int at; /* the next place */
} ordering;

static void place(ordering *o, const llama_adapter *adapter) {
    for (int s = 0, row = 0; s < o->n_span; row += o->span[s++].n) {
        const llama_span *p = &o->span[s];
        for (int i = 0; p->adapter == adapter && i < p->n; i++)
            if (!o->multiway || (p->row[i].visual != NULL) == o->visual)
                o->order[row + i] = o->at++;
    }
}

/* No span before it has its adapter. */
static bool is_first(const llama_span *span, int s) {
    for (int k = 0; k < s; k++)
        if (span[k].adapter == span[s].adapter) return false;
    return true;
}

static void place_all(ordering *o, llama_run *run, int *n_run) {
    place(o, NULL);
    for (int s = 0; s < o->n_span; s++) {
        const llama_adapter *a = o->span[s].adapter;
        int first = o->at;
        if (!a || !is_first(o->span, s)) continue;
        place(o, a);
        if (o->at > first) run[(*n_run)++] = (llama_run){a, first, o->at - first};
    }
}

int order_rows(const llama_span *span, int n_span, bool multiway, int *order, llama_run *run,
               int *n_run) {
    ordering o = {.span = span, .n_span = n_span, .multiway = multiway, .order = order};
    *n_run = 0;
    place_all(&o, run, n_run);
    int n_text = o.at;
    o.visual = true;
    if (multiway) place_all(&o, run, n_run);
    return n_text;
}
