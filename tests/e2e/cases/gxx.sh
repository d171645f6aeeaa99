# timeout: 120
# needs: g++
# Compiling and running C++ with exceptions, threads and the library.
cd "$TMPDIR" || exit 1
cat > main.cc <<'END'
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
struct Base { virtual ~Base() = default; virtual std::string name() const { return "base"; } };
struct Derived : Base { std::string name() const override { return "derived"; } };
int main() {
  std::vector<int> v(1000);
  std::iota(v.begin(), v.end(), 1);
  std::cout << std::accumulate(v.begin(), v.end(), 0) << '\n';
  std::map<std::string, int> m;
  for (auto* w : {"b", "a", "b"}) m[w]++;
  for (auto& [k, n] : m) std::cout << k << n << ' ';
  std::unique_ptr<Base> p = std::make_unique<Derived>();
  std::cout << p->name() << '\n';
  try { throw std::runtime_error("thrown"); } catch (const std::exception& e) { std::cout << e.what() << '\n'; }
  long sums[4] = {};
  std::vector<std::thread> ts;
  for (int i = 0; i < 4; i++) ts.emplace_back([&, i] { for (int j = 0; j < 100000; j++) sums[i] += j; });
  for (auto& t : ts) t.join();
  std::cout << sums[0] + sums[3] << std::endl;
  return 9;
}
END
g++ -std=c++20 -O1 -pthread -o main main.cc && ./main; echo $?
