# timeout: 180
# needs: make gcc
# make -j4 of a small project, and what make does the second time.
cd "$TMPDIR" || exit 1
mkdir src
for i in $(seq 1 12); do
  printf '#include "all.h"\n#include <stdio.h>\nint f%d(int x) { return printf("f%d %%d\\n", x) > 0 ? x + %d : 0; }\n' $i $i $i > src/f$i.c
  echo "int f$i(int);" >> src/all.h
done
{ echo '#include "all.h"'; echo 'int main(void) { int x = 0;'; for i in $(seq 1 12); do echo "x = f$i(x);"; done; echo 'return x; }'; } > src/main.c
cat > Makefile <<'END'
objects := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
program: $(objects)
	gcc -o $@ $^
obj/%.o: src/%.c src/all.h | obj
	@echo compiling $< >> log
	gcc -O1 -c -o $@ $<
obj:
	mkdir obj
clean:
	rm -rf obj program
.PHONY: clean
END
make -j4 > /dev/null; echo "make $?"
sort log; ./program; echo "program $?"
make -j4 -q; echo "up to date $?"
sleep 1.1; touch src/f3.c; : > log; make -j4 > /dev/null; cat log
make -s clean; ls
echo 'int main( {' > src/f5.c; make -j4 > /dev/null 2>&1; echo "broken $?"
