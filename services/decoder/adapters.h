/*
 * adapters.h - the adapters that a decoder has: opened by name and folder, found by what they are.
 */
#ifndef TY_DECODER_ADAPTERS_H
#define TY_DECODER_ADAPTERS_H

#include "services/decoder/adapt.h"
#include "services/decoder/decoder.h"

typedef struct {
    char name[TY_ADAPTER_NAME]; /* for people */
    char id[TY_MODEL_ID_SIZE];  /* ty_adapter_identity */
    llama_adapter *net;
} adapter_item;

typedef struct {
    adapter_item *item;
    int n;
} adapters;

/* Opens them all, or fails and says which: as ty_adapter_open, as adapt_create. */
ty_status adapters_load(adapters *list, llama *m, const decoder_adapter *given, int n, ty_err *err);
void adapters_clear(adapters *list);
/* The one of that identity, -1 when there is none. */
int adapters_find(const adapters *list, const char *id);

#endif
