# timeout: 120
# needs: gcc
# Compiling, linking and running C.
cd "$TMPDIR" || exit 1
cat > main.c <<'END'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int twice(int);
static int compare(const void* a, const void* b) { return *(const int*)a - *(const int*)b; }
int main(int argc, char** argv) {
  int v[] = {5, 3, 9, 1};
  qsort(v, 4, sizeof *v, compare);
  for (int i = 0; i < 4; i++) printf("%d ", v[i]);
  printf("%d %.6f %d %s\n", twice(21), sqrt(2), argc, argc > 1 ? argv[1] : "-");
  return strlen(argv[0]) > 0 ? 11 : 1;
}
END
echo 'int twice(int x) { return 2 * x; }' > twice.c
gcc -O2 -Wall -c main.c && gcc -O1 -fPIC -shared -o libtwice.so twice.c && gcc -o dynamic main.o -L. -ltwice -lm -Wl,-rpath,"$PWD" && ./dynamic argument; echo $?
gcc -static -o static main.c twice.c -lm && ./static; echo $?
gcc -g -fsanitize=undefined -o ub -x c - <<< 'int main(int c, char** v) { (void)v; return c + 0x7fffffff < 0 ? 3 : 4; }' 2>/dev/null && ./ub 2>/dev/null; echo $?
echo 'int main( { }' | gcc -x c - 2>/dev/null; echo "error $?"
gcc -S -o - -x c - <<< 'int f(void) { return 42; }' | grep -c 42
