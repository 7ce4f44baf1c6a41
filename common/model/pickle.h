/*
 * pickle.h - reads a Python pickle as data and executes nothing.
 *
 * The reader knows the opcodes that build values (numbers, strings, tuples, lists, dicts).  A name
 * of Python's (GLOBAL) must stand in the caller's list, any other is refused by name; calling one
 * (REDUCE) only notes the call: TY_PICKLE_CALL with the name's number and its arguments.  What the
 * calls mean is the caller's business.  Protocols 2 to 5.
 */
#ifndef TY_MODEL_PICKLE_H
#define TY_MODEL_PICKLE_H

#include "common/base/arena.h"
#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    TY_PICKLE_NONE,
    TY_PICKLE_BOOL,
    TY_PICKLE_INT,
    TY_PICKLE_FLOAT,
    TY_PICKLE_STR,
    TY_PICKLE_TUPLE,
    TY_PICKLE_LIST,
    TY_PICKLE_DICT,       /* item: key, value, key, value ... */
    TY_PICKLE_GLOBAL,     /* global */
    TY_PICKLE_CALL,       /* global, item[0] = the arguments (a tuple) */
    TY_PICKLE_PERSISTENT, /* item[0] = the id */
    TY_PICKLE_MARK        /* internal */
} ty_pickle_kind;

typedef struct ty_pickle_value ty_pickle_value;
struct ty_pickle_value {
    ty_pickle_kind kind;
    int global;      /* position in the caller's list */
    int64_t integer; /* INT; BOOL 0 or 1 */
    double real;
    const char *str; /* borrowed from the pickle: not NUL-terminated */
    size_t len;
    ty_pickle_value **item;
    size_t n, cap;
};

typedef struct {
    const char *module, *name; /* NULL ends the list; a name "*Suffix" allows any that ends so */
    bool makes_dict;           /* a call of it is an empty dict (OrderedDict) */
} ty_pickle_global;

/* *out lives in the arena and points into data.  Memory is a small multiple of size.
 * Fails: TY_EFORMAT (damaged), TY_EUNSUPPORTED (a name that is not allowed, an unknown opcode). */
ty_status ty_pickle_read(ty_pickle_value **out, const uint8_t *data, size_t size,
                         const ty_pickle_global *allowed, ty_arena *arena, ty_err *err);

bool ty_pickle_is_str(const ty_pickle_value *v, const char *text);

#endif
