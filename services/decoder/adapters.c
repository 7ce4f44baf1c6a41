/* adapters.c - see adapters.h. */
#include "services/decoder/adapters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_status load(adapters *list, llama *m, const decoder_adapter *given, ty_err *err) {
    adapter_item *x = &list->item[list->n];
    ty_adapter *a = NULL;
    snprintf(x->name, sizeof(x->name), "%s", given->name);
    ty_status st = ty_adapter_open(&a, given->dir, err);
    if (st == TY_OK) ty_adapter_identity(a, x->id);
    if (st == TY_OK) st = adapt_create(&x->net, m, a, err);
    ty_adapter_close(&a);
    if (st == TY_OK)
        list->n++;
    else
        ty_err_context(err, "adapter %s", given->name);
    return st;
}

ty_status adapters_load(adapters *list, llama *m, const decoder_adapter *given, int n,
                        ty_err *err) {
    *list = (adapters){.item = calloc((size_t)n + 1, sizeof(*list->item))};
    if (!list->item) return ty_fail(err, TY_ENOMEM, "no memory for %d adapters", n);
    ty_status st = TY_OK;
    for (int i = 0; i < n && st == TY_OK; i++) st = load(list, m, &given[i], err);
    return st;
}

void adapters_clear(adapters *list) {
    for (int i = 0; i < list->n; i++) adapt_destroy(&list->item[i].net);
    free(list->item);
    *list = (adapters){0};
}

int adapters_find(const adapters *list, const char *id) {
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->item[i].id, id) == 0) return i;
    return -1;
}
