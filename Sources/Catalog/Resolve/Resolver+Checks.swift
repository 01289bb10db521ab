import Core

// What is wrong, or odd, only when everything is looked at together.

extension Resolver {
  // MARK: Circles

  /// Circles of dependencies, each shown whole, once.
  mutating func checkCycles() {
    let services = manifests.services
    let serviceEdges = services.map { declared in
      declared.spec.dependsOn.compactMap { name in serviceNames[name.value].map { (to: $0, mark: name.mark) } }
    }
    for circle in Digraph(serviceEdges.map { $0.map(\.to) }).circles() {
      let mark =
        serviceEdges[circle[0]].first { $0.to == circle[1 % circle.count] }?.mark ?? services[circle[0]].name.mark
      report(circle.map { services[$0].name.value }, "services", file: services[circle[0]].file, mark)
    }

    let stores = services.flatMap { declared in
      declared.spec.stores.compactMap { store in store.name.map { (name: $0, store: store, file: declared.file) } }
    }
    guard stores.contains(where: { !$0.store.dependsOn.isEmpty }) else { return }
    let numbers = Dictionary(stores.indices.map { (stores[$0].name.value, $0) }, uniquingKeysWith: { a, _ in a })
    let storeEdges = stores.map { entry in
      entry.store.dependsOn.compactMap { name in numbers[name.value].map { (to: $0, mark: name.mark) } }
    }
    for circle in Digraph(storeEdges.map { $0.map(\.to) }).circles() {
      let mark = storeEdges[circle[0]].first { $0.to == circle[1 % circle.count] }?.mark ?? stores[circle[0]].name.mark
      report(circle.map { stores[$0].name.value.text }, "stores", file: stores[circle[0]].file, mark)
    }
  }

  private mutating func report(_ circle: [String], _ kind: String, file: String, _ mark: Mark) {
    report(
      .cycle, file, mark, "\(kind) wait for each other: \((circle + circle.prefix(1)).joined(separator: " → "))",
      "remove one of these dependencies; what is only needed while both run is not one")
  }

  // MARK: Groups

  mutating func checkGroups() {
    var owner: [StoreName: String] = [:]
    for declared in manifests.groups {
      var seenHere: Set<StoreName> = []
      let named = declared.spec.stores.map { ($0.value, $0.mark) }
      let whole = declared.spec.services.flatMap { service in
        (serviceNames[service.value].map { manifests.services[$0].spec.stores } ?? [])
          .compactMap { store in store.name.map { ($0.value, service.mark) } }
      }
      for (store, mark) in named + whole where seenHere.insert(store).inserted {
        if let first = owner[store] {
          report(
            .twoGroups, declared.file, mark,
            "store '\(store)' is in group '\(first)' already, and can't be held by two",
            "take it out of one of them, or join the groups")
        } else {
          owner[store] = declared.name.value
        }
      }
    }
  }

  // MARK: Warnings

  /// What is allowed and still worth saying.
  mutating func check(_ catalog: Catalog) {
    checkTiers(catalog)
    checkPlaces(catalog)
    checkLinks(catalog)
    checkPolicies(catalog)
    checkDuties(catalog)
  }

  private mutating func checkTiers(_ catalog: Catalog) {
    for declared in manifests.services {
      for dependency in declared.spec.dependsOn {
        guard let index = serviceNames[dependency.value] else { continue }
        let tier = manifests.services[index].spec.tier
        guard tier < declared.spec.tier else { continue }
        report(
          .tierInversion, declared.file, dependency.mark,
          "\(declared.spec.tier.rawValue) service '\(declared.name.value)' depends on \(tier.rawValue) service '\(dependency.value)'",
          "raise the tier of '\(dependency.value)', or do without it")
      }
    }
  }

  /// Repositories, stores and password files that lie inside each other.
  private mutating func checkPlaces(_ catalog: Catalog) {
    let repositories = manifests.repositories
    guard !repositories.isEmpty else { return }
    // Each store's path is looked up among the parents of each repository's, and the other way round.
    var storesAt: [String: StoreName] = [:]
    for store in catalog.stores {
      for case .string(let path) in store.options.values where path.hasPrefix("/") { storesAt[path] = store.name }
    }
    for declared in repositories {
      guard let location = declared.spec.location, case .local(let path) = location.value else { continue }
      if let store = AbsolutePath.parents(of: path).lazy.compactMap({ storesAt[$0] }).first {
        report(
          .repositoryInStore, declared.file, location.mark,
          "repository '\(declared.name.value)' lies inside store '\(store)', which it is to protect",
          "move it to another disk; what takes the store takes the repository too")
      }
      let inside = catalog.stores.first { store in
        store.options.values.contains { value in
          value.string.map { $0.hasPrefix("/") && $0 != path && AbsolutePath.contains(path, $0) } ?? false
        }
      }
      if let inside {
        report(
          .repositoryInStore, declared.file, location.mark,
          "store '\(inside.name)' lies inside repository '\(declared.name.value)'", "move one of them")
      }
      guard case .file(let file)? = declared.spec.password, let password = AbsolutePath.normalized(file) else {
        continue
      }
      let keeper: String? =
        if AbsolutePath.contains(path, password) {
          "the repository it opens"
        } else {
          AbsolutePath.parents(of: password).lazy.compactMap { storesAt[$0] }.first.map { "store '\($0)'" }
        }
      if let keeper {
        report(
          .passwordInRepository, declared.file, declared.name.mark,
          "the password of repository '\(declared.name.value)' is kept inside \(keeper)",
          "keep it elsewhere: whoever has the one has the other, and who loses the one loses both")
      }
    }
  }

  /// Stores joined by an invariant, or by their services' dependency, that no group holds together.
  private mutating func checkLinks(_ catalog: Catalog) {
    guard !manifests.groups.isEmpty else { return }
    var groupOf: [StoreName: GroupName] = [:]
    for group in catalog.groups { for store in group.stores { groupOf[store] = group.name } }
    let invariants = Dictionary(catalog.invariants.map { ($0.name.text, $0) }, uniquingKeysWith: { a, _ in a })
    for declared in manifests.invariants {
      guard let invariant = invariants[declared.name.value] else { continue }
      let stores = invariant.stores
      guard stores.count > 1, Set(stores.map { groupOf[$0] }).count > 1 || groupOf[stores[0]] == nil else { continue }
      report(
        .linkedOutsideGroup, declared.file, declared.name.mark,
        "invariant '\(declared.name.value)' joins stores that no group holds at one moment: "
          + stores.map { "'\($0)'" }.joined(separator: ", "),
        "put them into one ConsistencyGroup")
    }
    for declared in manifests.services {
      let own = declared.spec.stores.compactMap(\.name?.value)
      for dependency in declared.spec.dependsOn {
        guard let index = serviceNames[dependency.value] else { continue }
        let theirs = manifests.services[index].spec.stores.compactMap(\.name?.value)
        guard let loose = (own + theirs).first(where: { groupOf[$0] == nil }), !own.isEmpty, !theirs.isEmpty else {
          continue
        }
        report(
          .linkedOutsideGroup, declared.file, dependency.mark,
          "'\(declared.name.value)' depends on '\(dependency.value)', and store '\(loose)' of the two is in no group",
          "put it into a ConsistencyGroup with what it must match")
      }
    }
  }

  private mutating func checkPolicies(_ catalog: Catalog) {
    guard !manifests.policies.isEmpty else { return }
    let covered = Set(catalog.policies.flatMap(\.stores))
    for store in catalog.stores where !covered.contains(store.name) {
      guard let place = storePlaces[store.name] else { continue }
      report(
        .noPolicy, place.file, place.mark, "no policy is about store '\(store.name)'",
        "add it to a BackupPolicy, or it is backed up only when somebody asks")
    }
    for declared in manifests.policies {
      guard let schedule = declared.spec.schedule, case .every(let period) = schedule.value,
        let policy = catalog.policy(PolicyName(unchecked: declared.name.value))
      else { continue }
      let late = policy.stores.first { name in
        let rpo = catalog.store(name).flatMap { catalog.service($0.service) }?.objectives.rpo
        return rpo.map { $0 < period } ?? false
      }
      guard let late, let store = catalog.store(late), let rpo = catalog.service(store.service)?.objectives.rpo else {
        continue
      }
      report(
        .scheduleMissesObjective, declared.file, schedule.mark,
        "policy '\(declared.name.value)' takes a point every \(period.exactText), and service '\(store.service)' accepts to lose \(rpo.exactText)",
        "take points more often than that, or change the objective")
    }
  }

  /// Services nobody answers for, and domains nobody is in.
  private mutating func checkDuties(_ catalog: Catalog) {
    for declared in manifests.services where declared.spec.tier == .critical {
      let domain = declared.spec.domain.flatMap(catalog.domain)
      var missing: [String] = []
      if declared.spec.owner == nil, domain?.owner == nil { missing.append("owner") }
      if declared.spec.escalation.isEmpty, domain?.duties.escalation.isEmpty ?? true { missing.append("escalation") }
      guard !missing.isEmpty else { continue }
      report(
        .nobodyAnswers, declared.file, declared.name.mark,
        "critical service '\(declared.name.value)' has no \(missing.joined(separator: " and no "))",
        "add \(missing.map { "'\($0)'" }.joined(separator: " and ")) to it or to its Domain, or a runbook can't say whom to call"
      )
    }
    let named = Set(manifests.services.compactMap(\.spec.domain))
    for declared in manifests.domains where !named.contains(declared.name.value) {
      report(
        .emptyDomain, declared.file, declared.name.mark, "no service is in domain '\(declared.name.value)'",
        nearest(declared.name.value, in: named.sorted()).map { "did you mean '\($0)'?" }
          ?? "write 'domain: \(declared.name.value)' into its services")
    }
  }
}
