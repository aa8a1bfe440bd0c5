/* What the subcommands share. */
#ifndef MH_CLI_COMMAND_H
#define MH_CLI_COMMAND_H

enum { EXIT_USAGE = 2 };

int run_controller(int argc, char **argv);
int run_engine(int argc, char **argv);

#endif
