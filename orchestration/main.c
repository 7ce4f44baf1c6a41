/* main.c - `tyto COMMAND [options]`: finds the command in a table and runs it. */
#include "orchestration/commands.h"

#include "common/base/options.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} command;

/* In the order in which a person meets them. */
static const command commands[] = {
    {"import", cmd_import, "make a pipeline of a released checkpoint"},
    {"synth", cmd_synth, "make a pipeline of random weights, in any size"},
    {"run", cmd_run, "answer one question in this process"},
    {"chat", cmd_chat, "talk in the terminal, in this process"},
    {"up", cmd_up, "run the whole service: broker, stages, gateway"},
    {"ask", cmd_ask, "ask a running service one question"},
    {"eval", cmd_eval, "put an exam to a running service, and mark it"},
    {"train", cmd_train, "curves of training runs (tyto-train makes them)"},
    {"status", cmd_status, "the processes of a running service"},
    {"down", cmd_down, "stop a running service"},
    {"keys", cmd_keys, "make keys: for the wire between hosts, for clients of the API"},
    {"doctor", cmd_doctor, "look at this machine: packages, CPU, memory, ports"},
    {"tokenize", cmd_tokenize, "text from stdin to token ids"},
    {NULL, NULL, NULL},
};

static int help(FILE *to) {
    fprintf(to, "usage: tyto COMMAND [options]\n\n"
                "Questions about pictures, answered by mPLUG-Owl models through separate "
                "processes.\n\n");
    for (const command *c = commands; c->name; c++) fprintf(to, "  %-10s %s\n", c->name, c->about);
    fprintf(to, "\n`tyto COMMAND --help` lists a command's options.\n");
    return to == stdout ? 0 : 2;
}

int main(int argc, char **argv) {
    if (argc < 2) return help(stderr);
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0) return help(stdout);
    if (strcmp(name, "--version") == 0) {
        printf("tyto %s\n", TYTO_VERSION);
        return 0;
    }
    for (const command *c = commands; c->name; c++)
        if (strcmp(name, c->name) == 0) return c->run(argc - 1, argv + 1);
    fprintf(stderr, "tyto: there is no command \"%s\"; `tyto help` lists them\n", name);
    return 2;
}
