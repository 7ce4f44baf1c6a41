/* options.c - see options.h. */
#include "common/base/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_OPTIONS = 96, CODE_BASE = 1000, CODE_HELP = 1, CODE_VERSION = 2 };

/* Which options of the table parsed last were given; index = position in that table. */
static const ty_option *last_table;
static bool given[MAX_OPTIONS];

static int count(const ty_option *table) {
    int n = 0;
    while (table[n].flag) n++;
    return n;
}

static void set_default(const ty_option *o) {
    switch (o->kind) {
    case TY_OPTION_STR:
    case TY_OPTION_NAME: *(const char **)o->value = o->default_str; break;
    case TY_OPTION_INT: *(int *)o->value = (int)o->default_num; break;
    case TY_OPTION_DOUBLE: *(double *)o->value = o->default_num; break;
    case TY_OPTION_FLAG: *(bool *)o->value = false; break;
    case TY_OPTION_LIST: ((ty_option_list *)o->value)->n = 0; break;
    }
}

static int set_number(const ty_option *o, const char *text, const char *name) {
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(x)) {
        fprintf(stderr, "%s: \"%s\" is not a number\n", name, text);
        return -1;
    }
    if (o->kind == TY_OPTION_INT && x != floor(x)) {
        fprintf(stderr, "%s: \"%s\" is not a whole number\n", name, text);
        return -1;
    }
    if (x < o->min || x > o->max) {
        fprintf(stderr, "%s: %s is out of range, want %g to %g\n", name, text, o->min, o->max);
        return -1;
    }
    if (o->kind == TY_OPTION_INT)
        *(int *)o->value = (int)x;
    else
        *(double *)o->value = x;
    return 0;
}

static int set_flag(const ty_option *o, const char *text, const char *name) {
    bool yes =
        !text || strcmp(text, "1") == 0 || strcmp(text, "true") == 0 || strcmp(text, "yes") == 0;
    bool no = text && (!*text || strcmp(text, "0") == 0 || strcmp(text, "false") == 0 ||
                       strcmp(text, "no") == 0);
    if (!yes && !no) {
        fprintf(stderr, "%s: \"%s\" is neither 1 nor 0\n", name, text);
        return -1;
    }
    *(bool *)o->value = yes;
    return 0;
}

/* Values made here are kept as long as the process lives. */
typedef struct kept {
    struct kept *next;
    char text[];
} kept;
static kept *kept_values;

static char *keep(size_t size) {
    kept *k = malloc(sizeof(*k) + size);
    if (!k) return NULL;
    k->next = kept_values;
    kept_values = k;
    return k->text;
}

/* Replicas that are configured alike get names of their own by it. */
static int set_name(const ty_option *o, const char *text, const char *name) {
    const char *at = strstr(text, "%h");
    *(const char **)o->value = text;
    if (!at) return 0;
    char host[256] = "";
    size_t room = strlen(text) + sizeof(host);
    char *expanded = keep(room);
    if (!expanded || gethostname(host, sizeof(host) - 1) != 0) {
        fprintf(stderr, "%s: the host's name cannot be read\n", name);
        return -1;
    }
    snprintf(expanded, room, "%.*s%s%s", (int)(at - text), text, host, at + 2);
    *(const char **)o->value = expanded;
    return 0;
}

static int set(const ty_option *o, const char *text, const char *name);

/* A list's variable: each item as if its flag were given. */
static int set_list(const ty_option *o, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = keep(size), *save = NULL; /* the list borrows it */
    if (!copy) {
        fprintf(stderr, "%s: out of memory\n", o->variable);
        return -1;
    }
    memcpy(copy, text, size);
    int rc = 0;
    for (char *p = strtok_r(copy, ",", &save); p && rc == 0; p = strtok_r(NULL, ",", &save))
        rc = set(o, p, o->variable);
    return rc;
}

static int set_variable(const ty_option *o, const char *text) {
    return o->kind == TY_OPTION_LIST ? set_list(o, text) : set(o, text, o->variable);
}

static int set(const ty_option *o, const char *text, const char *name) {
    switch (o->kind) {
    case TY_OPTION_STR: *(const char **)o->value = text; return 0;
    case TY_OPTION_NAME: return set_name(o, text, name);
    case TY_OPTION_INT:
    case TY_OPTION_DOUBLE: return set_number(o, text, name);
    case TY_OPTION_FLAG: return set_flag(o, text, name);
    case TY_OPTION_LIST: break;
    }
    ty_option_list *list = o->value;
    if (list->n == TY_OPTION_LIST_MAX) {
        fprintf(stderr, "%s: given more than %d times\n", name, TY_OPTION_LIST_MAX);
        return -1;
    }
    list->item[list->n++] = text;
    return 0;
}

static void print_default(const ty_option *o) {
    if ((o->kind == TY_OPTION_STR || o->kind == TY_OPTION_NAME) && o->default_str)
        printf(" [%s]", o->default_str);
    if (o->kind == TY_OPTION_INT || o->kind == TY_OPTION_DOUBLE) printf(" [%g]", o->default_num);
    if (o->variable) printf(" (%s)", o->variable);
}

static void print_help(const ty_option *table, const char *usage, const char *about) {
    printf("usage: %s\n\n%s\n\n", usage, about);
    for (const ty_option *o = table; o->flag; o++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", o->flag, o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s", left, o->help);
        print_default(o);
        putchar('\n');
    }
    printf("  %-28s %s\n  %-28s %s\n", "--help", "this text", "--version", "the version");
}

ty_options_next ty_options_parse(const ty_option *table, const char *usage, const char *about,
                                 int argc, char **argv, int *rest) {
    struct option longs[MAX_OPTIONS + 3];
    int n = count(table);
    if (n > MAX_OPTIONS) {
        fprintf(stderr, "more than %d options in a table\n", MAX_OPTIONS);
        return TY_OPTIONS_USAGE;
    }
    last_table = table;
    memset(given, 0, sizeof(given));
    bool by_variable[MAX_OPTIONS] = {0};
    for (int i = 0; i < n; i++) {
        int has_arg = table[i].kind == TY_OPTION_FLAG ? no_argument : required_argument;
        longs[i] = (struct option){table[i].flag, has_arg, NULL, CODE_BASE + i};
        set_default(&table[i]);
        const char *var = table[i].variable ? getenv(table[i].variable) : NULL;
        if (var && *var) {
            if (set_variable(&table[i], var) != 0) return TY_OPTIONS_USAGE;
            given[i] = by_variable[i] = true;
        }
    }
    longs[n] = (struct option){"help", no_argument, NULL, CODE_HELP};
    longs[n + 1] = (struct option){"version", no_argument, NULL, CODE_VERSION};
    longs[n + 2] = (struct option){NULL, 0, NULL, 0};

    optind = 0; /* glibc: start afresh, a process may parse more than once */
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == CODE_HELP) {
            print_help(table, usage, about);
            return TY_OPTIONS_DONE;
        }
        if (c == CODE_VERSION) {
            printf("tyto %s\n", TYTO_VERSION);
            return TY_OPTIONS_DONE;
        }
        if (c < CODE_BASE) {
            fprintf(stderr, "usage: %s\n--help lists the options\n", usage);
            return TY_OPTIONS_USAGE;
        }
        const ty_option *o = &table[c - CODE_BASE];
        char name[64];
        snprintf(name, sizeof(name), "--%s", o->flag);
        if (by_variable[c - CODE_BASE]) set_default(o); /* a list does not add to its variable's */
        by_variable[c - CODE_BASE] = false;
        if (set(o, optarg, name) != 0) return TY_OPTIONS_USAGE;
        given[c - CODE_BASE] = true;
    }
    if (rest) {
        *rest = optind;
    } else if (optind < argc) {
        fprintf(stderr, "unexpected argument \"%s\"\nusage: %s\n", argv[optind], usage);
        return TY_OPTIONS_USAGE;
    }
    return TY_OPTIONS_GO;
}

bool ty_options_given(const ty_option *table, const char *flag) {
    if (table != last_table) return false;
    for (int i = 0; table[i].flag; i++)
        if (strcmp(table[i].flag, flag) == 0) return given[i];
    return false;
}
