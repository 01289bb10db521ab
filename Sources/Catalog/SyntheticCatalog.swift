import Core

/// Catalogs of any size for tests and benchmarks; the same seed gives the same text.
package struct SyntheticCatalog: Sendable {
  package var services: Int
  /// Dependencies of each service, as far as there are services before it.
  package var edgesPerService: Int
  package var seed: UInt64
  /// Consistency groups of ten stores each, and an invariant in each group.
  package var hasGroups: Bool

  package init(services: Int, edgesPerService: Int = 4, seed: UInt64 = 1, hasGroups: Bool = true) {
    (self.services, self.edgesPerService, self.seed, self.hasGroups) = (services, edgesPerService, seed, hasGroups)
  }

  /// The one driver its stores are of.
  package static let drivers: [DriverName: [OptionSchema]] = [
    "files": [OptionSchema("path", .path, required: true, help: "The directory.")]
  ]

  /// - Parameter files: How many files the documents are spread over.
  package func sources(files: Int = 1) -> [SourceFile] {
    let randomness = SeededRandomness(seed: seed)
    var texts = [String](repeating: "", count: max(1, files))
    texts[0] = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec:
        location: local:/srv/backup
        password: file:/run/secrets/repository

      """
    for index in 0..<services {
      var needs: Set<Int> = []
      if index > 0 { for _ in 0..<min(index, edgesPerService) { needs.insert(randomness.below(index)) } }
      // Collisions are made up for, so that the number of edges is exact.
      var next = 0
      while needs.count < min(index, edgesPerService) {
        needs.insert(next)
        next += 1
      }
      texts[index % texts.count] += service(index, needs.sorted())
    }
    if hasGroups {
      for start in stride(from: 0, to: services, by: 10) {
        texts[start / 10 % texts.count] += group(start, Array(start..<min(start + 10, services)))
      }
    }
    return texts.enumerated().map { SourceFile(path: "synthetic-\($0).yaml", text: $1) }
  }

  private func service(_ index: Int, _ needs: [Int]) -> String {
    """
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: service-\(index)}
    spec:
      owner: team-\(index % 50)
      objectives: {rpo: 15m, rto: 1h}
      dependsOn: [\(needs.map { "service-\($0)" }.joined(separator: ", "))]
      stop: systemctl stop service-\(index)
      stores:
        - name: store-\(index)
          files: {path: /srv/data/\(index)}

    """
  }

  private func group(_ number: Int, _ stores: [Int]) -> String {
    """
    ---
    apiVersion: salvor.dev/v1
    kind: ConsistencyGroup
    metadata: {name: group-\(number)}
    spec:
      stores: [\(stores.map { "store-\($0)" }.joined(separator: ", "))]
    ---
    apiVersion: salvor.dev/v1
    kind: Invariant
    metadata: {name: invariant-\(number)}
    spec:
      references:
        from: {store: store-\(stores[0]), query: select id from a}
        to: {store: store-\(stores[stores.count - 1]), query: select id from b}

    """
  }
}
