/*
 * options.h - one table per process, one line per option; it yields the flag, the TYTO_* variable
 * and --help.  A flag beats its variable, a variable beats the default.  Parsing is getopt_long's.
 *
 *     static struct { int threads; const char *model; bool verbose; } opt;
 *     static const ty_option table[] = {
 *         TY_OPT_STR("model", NULL, opt.model, NULL, "FILE", "the stage's GGUF file"),
 *         TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
 *         TY_OPT_FLAG("verbose", NULL, opt.verbose, "say more"),
 *         TY_OPT_END};
 *     int rc = ty_options_parse(table, "tyto-vit", "the ViT stage", argc, argv, &rest, &err);
 *
 * --help and --version are added to every table.
 */
#ifndef TY_BASE_OPTIONS_H
#define TY_BASE_OPTIONS_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define TYTO_VERSION "0.1.0"

typedef enum {
    TY_OPTION_STR,
    TY_OPTION_NAME, /* a string in which %h stands for this host's name */
    TY_OPTION_INT,
    TY_OPTION_DOUBLE,
    TY_OPTION_FLAG,
    TY_OPTION_LIST
} ty_option_kind;

/* A repeated option ("--image a --image b"), or a variable with commas between; strings are borrowed from argv
 * or kept as long as the process lives. */
enum { TY_OPTION_LIST_MAX = 64 };
typedef struct {
    const char *item[TY_OPTION_LIST_MAX];
    int n;
} ty_option_list;

typedef struct {
    const char *flag;     /* without the dashes; NULL ends the table */
    const char *variable; /* "TYTO_..." or NULL */
    ty_option_kind kind;
    void *value; /* const char **, int *, double *, bool *, ty_option_list * */
    const char *default_str;
    double default_num, min, max;
    const char *arg;  /* how --help names the argument */
    const char *help; /* one sentence */
} ty_option;

#define TY_OPT_STR(flag, var, field, def, arg, help)                                               \
    { flag, var, TY_OPTION_STR, &(field), def, 0, 0, 0, arg, help }
#define TY_OPT_NAME(flag, var, field, def, arg, help)                                              \
    { flag, var, TY_OPTION_NAME, &(field), def, 0, 0, 0, arg, help }
#define TY_OPT_INT(flag, var, field, def, min, max, help)                                          \
    { flag, var, TY_OPTION_INT, &(field), NULL, def, min, max, "N", help }
#define TY_OPT_DOUBLE(flag, var, field, def, min, max, help)                                       \
    { flag, var, TY_OPTION_DOUBLE, &(field), NULL, def, min, max, "X", help }
#define TY_OPT_FLAG(flag, var, field, help)                                                        \
    { flag, var, TY_OPTION_FLAG, &(field), NULL, 0, 0, 1, NULL, help }
#define TY_OPT_LIST(flag, field, arg, help)                                                        \
    { flag, NULL, TY_OPTION_LIST, &(field), NULL, 0, 0, 0, arg, help }
/* The same with a variable: items with commas between. */
#define TY_OPT_LIST_VAR(flag, var, field, arg, help)                                               \
    { flag, var, TY_OPTION_LIST, &(field), NULL, 0, 0, 0, arg, help }
#define TY_OPT_END                                                                                 \
    { NULL, NULL, TY_OPTION_STR, NULL, NULL, 0, 0, 0, NULL, NULL }

/* What main does next. */
typedef enum {
    TY_OPTIONS_GO,    /* values are set */
    TY_OPTIONS_DONE,  /* --help or --version was printed: exit 0 */
    TY_OPTIONS_USAGE, /* a message was printed on stderr: exit 2 */
} ty_options_next;

/* Sets every value of the table.  usage: "tyto run [options]"; about: a sentence or more for
 * --help.  *rest: index in argv of the first positional argument (argv may be permuted); with
 * rest == NULL positional arguments are an error. */
ty_options_next ty_options_parse(const ty_option *table, const char *usage, const char *about,
                                 int argc, char **argv, int *rest);

/* Was this option given by flag or variable (not by its default)? */
bool ty_options_given(const ty_option *table, const char *flag);

#endif
