import Core

extension Resolver {
  mutating func failover(_ declared: Declared<FailoverManifest>, stores: [DataStore]) -> FailoverPolicy {
    let spec = declared.spec
    var policy = spec.policy
    policy.name = PolicyName(unchecked: declared.name.value)
    if let store = spec.store, exists(store, declared.file) {
      if let found = stores.first(where: { $0.name == store.value }), found.driver.text != policy.engine.rawValue {
        report(
          .badFailover, declared.file, store.mark,
          "store '\(store.value)' is kept by \(found.driver), and the policy's engine is \(policy.engine.rawValue)",
          "write 'engine: \(found.driver)', or name another store")
      }
    }
    if let service = spec.service { _ = exists(service, declared.file) }
    follow(policy, declared)
    return policy
  }

  /// Followers must exist, stand where the leader can go, and lead nobody who leads back.
  private mutating func follow(_ policy: FailoverPolicy, _ declared: Declared<FailoverManifest>) {
    let all = Dictionary(manifests.failovers.map { ($0.name.value, $0) }, uniquingKeysWith: { a, _ in a })
    for follower in declared.spec.group?.followers ?? [] {
      guard let found = all[follower.value.text] else {
        dangling(
          "failover policy", follower.value.text, follower.mark, declared.file, among: all.keys.sorted())
        continue
      }
      if found.spec.group != nil {
        report(
          .badFailover, declared.file, follower.mark, "'\(follower.value)' leads a group of its own",
          "name its followers here, and take its group away: one leader moves them all")
      }
      let places = Set(found.spec.policy.members.map(\.place))
      let missing = policy.members.map(\.place).filter { !places.contains($0) }
      if !missing.isEmpty {
        report(
          .oddFailover, declared.file, follower.mark,
          "'\(follower.value)' has no member at \(missing.map { "'\($0)'" }.joined(separator: " or ")), so it can't follow there",
          "give members of both the same 'site'")
      }
    }
  }
}

extension FailoverPolicy {
  /// Reads one policy from a file of its own, by the same table as a catalog; what it refers to isn't looked up.
  ///
  /// - Throws: ``CatalogError/invalid(_:)`` with all that is wrong.
  package init(_ file: SourceFile) throws(CatalogError) {
    let manifests = Manifests([file], drivers: [:])
    var diagnostics = manifests.diagnostics
    if manifests.failovers.count != 1, !diagnostics.contains(where: { $0.severity == .error }) {
      diagnostics.append(
        Diagnostic(
          .missing, file: file.path, mark: .start,
          "one document of kind FailoverPolicy belongs here, and there are \(manifests.failovers.count)",
          "name a policy of the catalog with --policy NAME -c FOLDER, or write a file of one document"))
    }
    guard let declared = manifests.failovers.first, !diagnostics.contains(where: { $0.severity == .error }) else {
      throw .invalid(diagnostics)
    }
    self = declared.spec.policy
    name = PolicyName(unchecked: declared.name.value)
  }
}
