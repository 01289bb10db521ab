import Core

extension Resolver {
  /// Circles of dependencies, each shown whole, once.
  mutating func checkCycles() {
    var serviceMarks: [[(to: Int, mark: Mark)]] = []
    for declared in manifests.services {
      serviceMarks.append(declared.spec.dependsOn.compactMap { name in serviceNames[name.value].map { ($0, name.mark) } })
    }
    for circle in Digraph(serviceMarks.map { $0.map(\.to) }).circles() {
      let names = circle.map { manifests.services[$0].name.value }
      let mark = serviceMarks[circle[0]].first { $0.to == circle[1 % circle.count] }?.mark ?? .start
      report(
        .cycle, manifests.services[circle[0]].file, mark,
        "services wait for each other: \((names + names.prefix(1)).joined(separator: " → "))",
        "remove one of these dependencies; if both need each other at run time only, neither is one")
    }
  }

  mutating func checkGroups() {}

  mutating func check(_ catalog: Catalog) {}
}
