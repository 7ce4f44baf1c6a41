/*
 * pickle.c - see pickle.h.  The opcodes are described in Python's Lib/pickletools.py.
 *
 * A stack machine: each opcode costs at least a byte of input and makes at most one value, and a
 * container takes its items off the stack, so memory stays proportional to the input.
 */
#include "common/model/pickle.h"

#include <stdlib.h>
#include <string.h>

typedef ty_pickle_value value;

typedef struct {
    const uint8_t *at, *end;
    size_t size;
    const ty_pickle_global *allowed;
    ty_arena *arena;
    ty_err *err;
    value **stack;
    size_t n, cap;
    value **memo;
    size_t cap_memo, next_memo;
} machine;

static ty_status bad(machine *m, const char *what) {
    return ty_fail(m->err, TY_EFORMAT, "pickle: %s", what);
}

static ty_status no_memory(machine *m) {
    return ty_fail(m->err, TY_ENOMEM, "pickle: no memory");
}

static bool take(machine *m, size_t n, const uint8_t **p) {
    if ((size_t)(m->end - m->at) < n) return false;
    *p = m->at;
    m->at += n;
    return true;
}

/* An unsigned little-endian number of n bytes. */
static bool take_uint(machine *m, size_t n, uint64_t *v) {
    const uint8_t *p;
    if (!take(m, n, &p)) return false;
    *v = 0;
    for (size_t i = n; i-- > 0;) *v = *v << 8 | p[i];
    return true;
}

static value *make(machine *m, ty_pickle_kind kind) {
    value *v = ty_arena_alloc(m->arena, sizeof(*v));
    if (v) *v = (value){.kind = kind};
    return v;
}

static ty_status push(machine *m, value *v) {
    if (!v) return no_memory(m);
    if (m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 256;
        value **more = realloc(m->stack, cap * sizeof(value *));
        if (!more) return no_memory(m);
        m->stack = more;
        m->cap = cap;
    }
    m->stack[m->n++] = v;
    return TY_OK;
}

/* NULL when the stack is empty or a mark lies on top: no opcode may take that. */
static value *pop(machine *m) {
    if (m->n == 0 || m->stack[m->n - 1]->kind == TY_PICKLE_MARK) return NULL;
    return m->stack[--m->n];
}

static value *top(machine *m) {
    if (m->n == 0 || m->stack[m->n - 1]->kind == TY_PICKLE_MARK) return NULL;
    return m->stack[m->n - 1];
}

static ty_status push_int(machine *m, ty_pickle_kind kind, int64_t i) {
    value *v = make(m, kind);
    if (v) v->integer = i;
    return push(m, v);
}

static ty_status push_str(machine *m, size_t length_bytes) {
    uint64_t n;
    const uint8_t *p;
    if (!take_uint(m, length_bytes, &n) || n > SIZE_MAX / 2 || !take(m, (size_t)n, &p))
        return bad(m, "ends inside a string");
    value *v = make(m, TY_PICKLE_STR);
    if (!v) return no_memory(m);
    v->str = (const char *)p;
    v->len = (size_t)n;
    return push(m, v);
}

/* LONG1: a signed number of up to 255 bytes; more than 8 would be none that a tensor has. */
static ty_status push_long(machine *m) {
    uint64_t n, u;
    const uint8_t *p;
    if (!take_uint(m, 1, &n) || !take(m, (size_t)n, &p)) return bad(m, "ends inside a number");
    if (n > 8) return bad(m, "a number of more than 64 bits");
    u = n && (p[n - 1] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = (size_t)n; i-- > 0;) u = u << 8 | p[i];
    return push_int(m, TY_PICKLE_INT, (int64_t)u);
}

static ty_status push_float(machine *m) {
    const uint8_t *p;
    if (!take(m, 8, &p)) return bad(m, "ends inside a number");
    uint64_t u = 0;
    for (int i = 0; i < 8; i++) u = u << 8 | p[i]; /* big-endian, alone among the opcodes */
    value *v = make(m, TY_PICKLE_FLOAT);
    if (v) memcpy(&v->real, &u, sizeof(u));
    return push(m, v);
}

/* --- containers --- */

static ty_status append(machine *m, value *seq, value *item) {
    if (seq->n == seq->cap) {
        size_t cap = seq->cap ? 2 * seq->cap : 8;
        value **more = ty_arena_array(m->arena, cap, sizeof(value *));
        if (!more) return no_memory(m);
        if (seq->n) memcpy(more, seq->item, seq->n * sizeof(value *));
        seq->item = more;
        seq->cap = cap;
    }
    seq->item[seq->n++] = item;
    return TY_OK;
}

/* Position behind the topmost mark; false when there is none. */
static bool find_mark(machine *m, size_t *first) {
    for (size_t i = m->n; i-- > 0;)
        if (m->stack[i]->kind == TY_PICKLE_MARK) {
            *first = i + 1;
            return true;
        }
    return false;
}

static ty_status make_tuple(machine *m, size_t n) {
    value *t = make(m, TY_PICKLE_TUPLE);
    ty_status st = t ? TY_OK : no_memory(m);
    if (st == TY_OK && n > m->n) st = bad(m, "a tuple of more than there is");
    for (size_t i = m->n - n; st == TY_OK && i < m->n; i++) {
        if (m->stack[i]->kind == TY_PICKLE_MARK) return bad(m, "a tuple over a mark");
        st = append(m, t, m->stack[i]);
    }
    if (st != TY_OK) return st;
    m->n -= n;
    return push(m, t);
}

static ty_status make_marked_tuple(machine *m) {
    size_t first;
    if (!find_mark(m, &first)) return bad(m, "a tuple without its mark");
    ty_status st = make_tuple(m, m->n - first);
    if (st != TY_OK) return st;
    m->stack[m->n - 2] = m->stack[m->n - 1]; /* over the mark */
    m->n--;
    return TY_OK;
}

/* Moves stack[first..] into the container below it (`below` places further down). */
static ty_status add_items(machine *m, size_t first, size_t below, ty_pickle_kind kind) {
    if (first < below) return bad(m, "items for no container");
    value *c = m->stack[first - below];
    if (c->kind != kind) return bad(m, "items for what is no container");
    if (kind == TY_PICKLE_DICT && (m->n - first) % 2) return bad(m, "a key without a value");
    for (size_t i = first; i < m->n; i++) {
        if (m->stack[i]->kind == TY_PICKLE_MARK) return bad(m, "a mark among items");
        ty_status st = append(m, c, m->stack[i]);
        if (st != TY_OK) return st;
    }
    m->n = first - below + 1;
    return TY_OK;
}

static ty_status add_marked(machine *m, ty_pickle_kind kind) {
    size_t first;
    if (!find_mark(m, &first)) return bad(m, "items without their mark");
    return add_items(m, first, 2, kind);
}

static ty_status add_top(machine *m, size_t n, ty_pickle_kind kind) {
    if (m->n < n + 1) return bad(m, "items for no container");
    return add_items(m, m->n - n, 1, kind);
}

/* --- memo --- */

static ty_status memo_put(machine *m, uint64_t i) {
    value *v = top(m);
    if (!v) return bad(m, "remembers what is not there");
    if (i >= m->size) return bad(m, "a memo number larger than the pickle");
    if (i >= m->cap_memo) {
        size_t cap = (size_t)i + 256 > 2 * m->cap_memo ? (size_t)i + 256 : 2 * m->cap_memo;
        value **more = realloc(m->memo, cap * sizeof(value *));
        if (!more) return no_memory(m);
        memset(more + m->cap_memo, 0, (cap - m->cap_memo) * sizeof(value *));
        m->memo = more;
        m->cap_memo = cap;
    }
    m->memo[i] = v;
    return TY_OK;
}

static ty_status memo_put_numbered(machine *m, size_t bytes) {
    uint64_t i;
    return take_uint(m, bytes, &i) ? memo_put(m, i) : bad(m, "ends inside a memo number");
}

static ty_status memo_get(machine *m, size_t bytes) {
    uint64_t i;
    if (!take_uint(m, bytes, &i)) return bad(m, "ends inside a memo number");
    if (i >= m->cap_memo || !m->memo[i]) return bad(m, "recalls what was never remembered");
    return push(m, m->memo[i]);
}

/* --- names and calls --- */

static bool same(const char *want, const char *s, size_t n) {
    return strlen(want) == n && memcmp(want, s, n) == 0;
}

static bool name_fits(const char *want, const char *s, size_t n) {
    if (want[0] != '*') return same(want, s, n);
    size_t k = strlen(want + 1);
    return n >= k && memcmp(want + 1, s + n - k, k) == 0;
}

static ty_status push_global(machine *m, const char *module, size_t n_module, const char *name,
                             size_t n_name) {
    for (int i = 0; m->allowed[i].module; i++) {
        if (!same(m->allowed[i].module, module, n_module) ||
            !name_fits(m->allowed[i].name, name, n_name))
            continue;
        value *v = make(m, TY_PICKLE_GLOBAL);
        if (!v) return no_memory(m);
        v->global = i;
        v->str = name;
        v->len = n_name;
        return push(m, v);
    }
    return ty_fail(m->err, TY_EUNSUPPORTED,
                   "pickle: %.*s.%.*s would run code: refused; if you trust the file, convert it "
                   "to safetensors with its own tools",
                   (int)(n_module < 80 ? n_module : 80), module, (int)(n_name < 80 ? n_name : 80),
                   name);
}

/* GLOBAL: two lines, module and name. */
static ty_status read_global(machine *m) {
    const char *line[2];
    size_t len[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *nl = memchr(m->at, '\n', (size_t)(m->end - m->at));
        if (!nl) return bad(m, "ends inside a name");
        line[i] = (const char *)m->at;
        len[i] = (size_t)(nl - m->at);
        m->at = nl + 1;
    }
    return push_global(m, line[0], len[0], line[1], len[1]);
}

static ty_status read_stack_global(machine *m) {
    value *name = pop(m), *module = name ? pop(m) : NULL;
    if (!module || name->kind != TY_PICKLE_STR || module->kind != TY_PICKLE_STR)
        return bad(m, "a name that is no string");
    return push_global(m, module->str, module->len, name->str, name->len);
}

static ty_status note_call(machine *m) {
    value *args = pop(m), *callee = args ? pop(m) : NULL;
    if (!callee || callee->kind != TY_PICKLE_GLOBAL || args->kind != TY_PICKLE_TUPLE)
        return bad(m, "a call of what is no name");
    if (m->allowed[callee->global].makes_dict) {
        if (args->n) return bad(m, "an OrderedDict made of arguments");
        return push(m, make(m, TY_PICKLE_DICT));
    }
    value *v = make(m, TY_PICKLE_CALL);
    ty_status st = v ? append(m, v, args) : no_memory(m);
    if (st != TY_OK) return st;
    v->global = callee->global;
    return push(m, v);
}

static ty_status note_persistent(machine *m) {
    value *id = pop(m);
    value *v = make(m, TY_PICKLE_PERSISTENT);
    if (!id) return bad(m, "a persistent id that is not there");
    ty_status st = v ? append(m, v, id) : no_memory(m);
    return st == TY_OK ? push(m, v) : st;
}

/* BUILD sets attributes; a dict's (`_metadata` of a state dict) and a call's do not matter here. */
static ty_status drop_state(machine *m) {
    value *state = pop(m), *object = state ? top(m) : NULL;
    if (!object || (object->kind != TY_PICKLE_DICT && object->kind != TY_PICKLE_CALL))
        return bad(m, "a state for what has none");
    return TY_OK;
}

static ty_status skip(machine *m, size_t n) {
    const uint8_t *p;
    return take(m, n, &p) ? TY_OK : bad(m, "ends inside an opcode");
}

static ty_status push_number(machine *m, size_t bytes) {
    uint64_t u;
    if (!take_uint(m, bytes, &u)) return bad(m, "ends inside a number");
    return push_int(m, TY_PICKLE_INT, bytes == 4 ? (int32_t)(uint32_t)u : (int64_t)u);
}

static ty_status step(machine *m, uint8_t op) {
    switch (op) {
    case 0x80: return skip(m, 1); /* PROTO */
    case 0x95: return skip(m, 8); /* FRAME */
    case '(': return push(m, make(m, TY_PICKLE_MARK));
    case 'N': return push(m, make(m, TY_PICKLE_NONE));
    case 0x88: return push_int(m, TY_PICKLE_BOOL, 1);
    case 0x89: return push_int(m, TY_PICKLE_BOOL, 0);
    case 'K': return push_number(m, 1);
    case 'M': return push_number(m, 2);
    case 'J': return push_number(m, 4);
    case 0x8a: return push_long(m);
    case 'G': return push_float(m);
    case 0x8c: return push_str(m, 1); /* SHORT_BINUNICODE */
    case 'X': return push_str(m, 4);  /* BINUNICODE */
    case 0x8d: return push_str(m, 8); /* BINUNICODE8 */
    case 'U': return push_str(m, 1);  /* SHORT_BINSTRING, from Python 2 */
    case ')': return make_tuple(m, 0);
    case 0x85: return make_tuple(m, 1);
    case 0x86: return make_tuple(m, 2);
    case 0x87: return make_tuple(m, 3);
    case 't': return make_marked_tuple(m);
    case ']': return push(m, make(m, TY_PICKLE_LIST));
    case 'a': return add_top(m, 1, TY_PICKLE_LIST);
    case 'e': return add_marked(m, TY_PICKLE_LIST);
    case '}': return push(m, make(m, TY_PICKLE_DICT));
    case 's': return add_top(m, 2, TY_PICKLE_DICT);
    case 'u': return add_marked(m, TY_PICKLE_DICT);
    case 'q': return memo_put_numbered(m, 1);
    case 'r': return memo_put_numbered(m, 4);
    case 0x94: return memo_put(m, m->next_memo++); /* MEMOIZE */
    case 'h': return memo_get(m, 1);
    case 'j': return memo_get(m, 4);
    case 'c': return read_global(m);
    case 0x93: return read_stack_global(m);
    case 'R': return note_call(m);
    case 'Q': return note_persistent(m);
    case 'b': return drop_state(m);
    default:
        return ty_fail(m->err, TY_EUNSUPPORTED,
                       "pickle: opcode 0x%02x, which no tensor file needs: refused", op);
    }
}

ty_status ty_pickle_read(ty_pickle_value **out, const uint8_t *data, size_t size,
                         const ty_pickle_global *allowed, ty_arena *arena, ty_err *err) {
    machine m = {.at = data,
                 .end = data + size,
                 .size = size,
                 .allowed = allowed,
                 .arena = arena,
                 .err = err};
    ty_status st = TY_OK;
    *out = NULL;
    while (st == TY_OK) {
        if (m.at == m.end) {
            st = bad(&m, "the file ends before its end mark: cut off or damaged");
            break;
        }
        uint8_t op = *m.at++;
        if (op == '.') {
            *out = m.n == 1 ? pop(&m) : NULL;
            if (!*out) st = bad(&m, "ends with other than one value");
            break;
        }
        st = step(&m, op);
    }
    free(m.stack);
    free(m.memo);
    return st;
}

bool ty_pickle_is_str(const ty_pickle_value *v, const char *text) {
    return v->kind == TY_PICKLE_STR && same(text, v->str, v->len);
}
