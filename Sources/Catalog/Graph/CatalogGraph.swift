import Core

/// The services of a catalog and who needs whom.
package struct CatalogGraph: Sendable {
  package let catalog: Catalog
  /// By position in `catalog.services`: what each depends on, and who depends on it; sorted.
  private let needs: [[Int]]
  private let users: [[Int]]
  private let numbers: [ServiceName: Int]
  /// By position: the wave.
  private let wave: [Int]

  package init(_ catalog: Catalog) {
    self.catalog = catalog
    let numbers = Dictionary(
      catalog.services.indices.map { (catalog.services[$0].name, $0) }, uniquingKeysWith: { a, _ in a })
    let needs = catalog.services.map { $0.dependsOn.compactMap { numbers[$0] } }
    var users = [[Int]](repeating: [], count: needs.count)
    for (service, targets) in needs.enumerated() { for target in targets { users[target].append(service) } }
    (self.numbers, self.needs, self.users) = (numbers, needs, users)
    // A resolved catalog has no circle; without waves everything would be in the first.
    wave = Digraph(needs).waves() ?? [Int](repeating: 0, count: needs.count)
  }

  /// Services that can come up side by side, in order: each is in the earliest wave its dependencies allow.
  package var waves: [[ServiceName]] {
    var result = [[ServiceName]](repeating: [], count: (wave.max() ?? -1) + 1)
    for (index, wave) in wave.enumerated() { result[wave].append(catalog.services[index].name) }
    return result
  }

  package func wave(of service: ServiceName) -> Int? { numbers[service].map { wave[$0] } }

  /// Who depends on `service` directly; sorted.
  package func dependents(of service: ServiceName) -> [ServiceName] {
    numbers[service].map { users[$0].map { catalog.services[$0].name } } ?? []
  }

  /// Who depends on `service` directly or through others; sorted. What is disturbed when it is away.
  package func allDependents(of service: ServiceName) -> [ServiceName] { reached(from: service, by: users) }

  /// What must be up before `service` can be; sorted.
  package func allDependencies(of service: ServiceName) -> [ServiceName] { reached(from: service, by: needs) }

  private func reached(from service: ServiceName, by edges: [[Int]]) -> [ServiceName] {
    guard let start = numbers[service] else { return [] }
    var seen: Set<Int> = []
    var open = edges[start]
    while let next = open.popLast() { if seen.insert(next).inserted { open += edges[next] } }
    return seen.sorted().map { catalog.services[$0].name }
  }

  /// The longest chain of dependencies, foundation first; with `seconds` per service the one that takes longest.
  ///
  /// Among equals the first by name.
  package func criticalPath(_ seconds: (Service) -> Double = { _ in 1 }) -> [ServiceName] {
    let cost = catalog.services.map(seconds)
    var total = cost
    var before = [Int?](repeating: nil, count: needs.count)
    for index in needs.indices.sorted(by: { (wave[$0], $0) < (wave[$1], $1) }) {
      let slowest = needs[index].min { (-total[$0], $0) < (-total[$1], $1) }
      guard let slowest else { continue }
      before[index] = slowest
      total[index] = total[slowest] + cost[index]
    }
    var path: [Int] = []
    var next = needs.indices.min { (-total[$0], $0) < (-total[$1], $1) }
    while let index = next {
      path.append(index)
      next = before[index]
    }
    return path.reversed().map { catalog.services[$0].name }
  }

  /// By position, for renderers.
  func dependencies(_ index: Int) -> [Int] { needs[index] }
  func isUsed(_ index: Int) -> Bool { !users[index].isEmpty }
}
