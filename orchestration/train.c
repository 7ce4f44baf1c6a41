/* train.c - `tyto train report RUN...`: curves of training runs.  The training itself is tyto-train's. */
#include "orchestration/commands.h"

#include "common/base/options.h"
#include "training/report_page.h"

#include <stdio.h>
#include <string.h>

int cmd_train(int argc, char **argv) {
    static const char *out;
    static const ty_option table[] = {
        TY_OPT_STR("out", NULL, out, NULL, "FILE", "the page [the first RUN's report.html]"),
        TY_OPT_END,
    };
    const char *usage = "tyto train report RUN...";
    char own[4200];
    int rest;
    ty_options_next next =
        ty_options_parse(table, usage,
                         "Writes a page of curves from the logs of training runs, side by side. "
                         "Runs are made by tyto-train.",
                         argc, argv, &rest);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (argc - rest < 2 || strcmp(argv[rest], "report") != 0) {
        fprintf(stderr, "tyto train: want report and RUN\nusage: %s\n", usage);
        return 2;
    }
    ty_err err = {0};
    snprintf(own, sizeof(own), "%s/report.html", argv[rest + 1]);
    const char *page = out ? out : own;
    if (report_page((const char *const *)argv + rest + 1, argc - rest - 1, page, &err) != TY_OK) {
        fprintf(stderr, "tyto train: %s\n", err.text);
        return 1;
    }
    printf("%s\n", page);
    return 0;
}
