/*
 * commands.h - the commands of `tyto`, one file each.  Every one parses its own options (argv[0] is
 * the command's name), prints what it has to say, and returns the exit code: 0 ok, 1 failed, 2 usage.
 */
#ifndef TY_COMMANDS_H
#define TY_COMMANDS_H

int cmd_import(int argc, char **argv);   /* import.c */
int cmd_synth(int argc, char **argv);    /* synth.c */
int cmd_tokenize(int argc, char **argv); /* tokenize.c */
int cmd_run(int argc, char **argv);      /* run.c */
int cmd_chat(int argc, char **argv);     /* chat.c */
int cmd_ask(int argc, char **argv);      /* ask.c */
int cmd_eval(int argc, char **argv);     /* eval.c */
int cmd_up(int argc, char **argv);       /* up.c */
int cmd_down(int argc, char **argv);     /* down.c */
int cmd_train(int argc, char **argv);    /* train.c */
int cmd_status(int argc, char **argv);   /* status.c */
int cmd_keys(int argc, char **argv);     /* keys.c */
int cmd_doctor(int argc, char **argv);   /* doctor.c */

#endif
