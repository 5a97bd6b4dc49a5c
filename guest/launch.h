/* Work off the plan in the memory behind `plan_fd` (launch.c); the status of the process in between. */
int launch(int plan_fd);

/* The same as `launch`, by a program that nobody can write to. */
int shelter(char *plan_fd);
