import Core

/// Turns what was written into what is meant: defaults filled in, names looked up.
///
/// Goes on after each problem with what can be known, so that one pass finds them all.
struct Resolver {
  let manifests: Manifests
  private(set) var diagnostics: [Diagnostic] = []

  /// Names that exist, whatever else is wrong with the thing; the value is where.
  var serviceNames: [ServiceName: Int] = [:]
  var storePlaces: [StoreName: Place] = [:]
  var repositoryNames: Set<RepositoryName> = []
  /// The only repository; `nil` if there is none or a choice.
  var onlyRepository: RepositoryName?

  struct Place {
    var file: String
    var mark: Mark
    /// Index into `manifests.services`.
    var service: Int
  }

  init(_ manifests: Manifests) { self.manifests = manifests }

  mutating func report(_ code: DiagnosticCode, _ file: String, _ mark: Mark, _ message: String, _ remedy: String?) {
    diagnostics.append(Diagnostic(code, file: file, mark: mark, message, remedy))
  }

  /// - Returns: Complete only if neither `manifests` nor `self` has an error to report.
  mutating func catalog() -> Catalog {
    collectNames()
    var services: [Service] = []
    var stores: [DataStore] = []
    services.reserveCapacity(manifests.services.count)
    for declared in manifests.services { services.append(service(declared, stores: &stores)) }
    let repositories = manifests.repositories.compactMap(repository)
    var groups = manifests.groups.map { group($0) }
    if groups.isEmpty, let implicit = implicitGroup(stores) { groups = [implicit] }
    let policies = manifests.policies.map { policy($0, all: stores) }
    let invariants = manifests.invariants.compactMap { invariant($0) }
    let drills = manifests.drills.map { drill($0, services: services) }
    let workflows = manifests.workflows.compactMap { workflow($0) }
    let metrics = manifests.metrics.compactMap { metric($0) }
    let domains = manifests.domains.map { declared in
      Domain(
        name: DomainName(unchecked: declared.name.value), owner: declared.spec.owner, duties: declared.spec.duties)
    }
    let reconciliations = manifests.reconciliations.compactMap { reconciliation($0) }
    let failovers = manifests.failovers.map { failover($0, stores: stores) }
    let routes = manifests.routes.compactMap { route($0) }
    let rollouts = manifests.rollouts.compactMap { rollout($0) }
    let catalog = Catalog(
      services: services, stores: stores, repositories: repositories, policies: policies, groups: groups,
      invariants: invariants, drills: drills, workflows: workflows, metrics: metrics, domains: domains,
      reconciliations: reconciliations, failovers: failovers, routes: routes, rollouts: rollouts)
    checkCycles()
    checkGroups()
    check(catalog)
    return catalog
  }

  // MARK: Names

  private mutating func collectNames() {
    if manifests.services.isEmpty, !manifests.diagnostics.contains(where: { $0.severity == .error }) {
      report(
        .nothingToProtect, "", Mark(line: 0, column: 0), "the catalog holds no service",
        "add a document of kind Service; see docs/reference/catalog.md")
    }
    unique(manifests.services)
    unique(manifests.repositories)
    unique(manifests.groups)
    unique(manifests.policies)
    unique(manifests.invariants)
    unique(manifests.drills)
    unique(manifests.workflows)
    unique(manifests.metrics)
    unique(manifests.domains)
    unique(manifests.reconciliations)
    unique(manifests.failovers)
    unique(manifests.routes)
    unique(manifests.rollouts)
    for (index, declared) in manifests.services.enumerated() {
      serviceNames[ServiceName(unchecked: declared.name.value)] = index
      for store in declared.spec.stores {
        guard let name = store.name else { continue }
        if let first = storePlaces[name.value] {
          report(
            .duplicateName, declared.file, name.mark,
            "store '\(name.value)' is declared already, in \(first.file):\(first.mark.line)",
            "rename one of them; store names are unique in the whole catalog")
        } else {
          storePlaces[name.value] = Place(file: declared.file, mark: name.mark, service: index)
        }
      }
    }
    repositoryNames = Set(manifests.repositories.map { RepositoryName(unchecked: $0.name.value) })
    onlyRepository = repositoryNames.count == 1 ? repositoryNames.first : nil
  }

  private mutating func unique<Spec: Sendable>(_ declared: [Declared<Spec>]) {
    var seen: [String: (file: String, line: Int32)] = [:]
    seen.reserveCapacity(declared.count)
    for item in declared {
      if let first = seen[item.name.value] {
        report(
          .duplicateName, item.file, item.name.mark,
          "'\(item.name.value)' is declared already, in \(first.file):\(first.line)",
          "rename one of them, or remove it")
      } else {
        seen[item.name.value] = (item.file, item.name.mark.line)
      }
    }
  }

  /// Says so where a name leads nowhere.
  mutating func exists(_ name: Located<StoreName>, _ file: String) -> Bool {
    if storePlaces[name.value] != nil { return true }
    dangling("store", name.value.text, name.mark, file, among: storePlaces.keys.lazy.map(\.text).sorted())
    return false
  }

  mutating func exists(_ name: Located<ServiceName>, _ file: String) -> Bool {
    if serviceNames[name.value] != nil { return true }
    dangling("service", name.value.text, name.mark, file, among: serviceNames.keys.lazy.map(\.text).sorted())
    return false
  }

  private mutating func exists(_ name: Located<RepositoryName>, _ file: String) -> Bool {
    if repositoryNames.contains(name.value) { return true }
    dangling("repository", name.value.text, name.mark, file, among: repositoryNames.map(\.text).sorted())
    return false
  }

  mutating func dangling(_ kind: String, _ name: String, _ mark: Mark, _ file: String, among known: [String]) {
    let guess = nearest(name, in: known).map { "did you mean '\($0)'?" }
    let list =
      known.count <= 12 && !known.isEmpty
      ? "there is \(known.joined(separator: ", "))" : "declare it, or correct the name"
    report(.dangling, file, mark, "there is no \(kind) '\(name)'", guess ?? list)
  }

  // MARK: Services and stores

  private mutating func service(_ declared: Declared<ServiceManifest>, stores: inout [DataStore]) -> Service {
    let spec = declared.spec
    let name = ServiceName(unchecked: declared.name.value)
    var dependsOn: [ServiceName] = []
    for dependency in spec.dependsOn where exists(dependency, declared.file) { dependsOn.append(dependency.value) }
    var own: [StoreName] = []
    for manifest in spec.stores {
      guard let store = store(manifest, of: name, in: declared) else { continue }
      stores.append(store)
      own.append(store.name)
    }
    if spec.objectives.isEmpty {
      report(
        .noObjectives, declared.file, declared.name.mark, "service '\(name)' has no objectives",
        "add 'objectives: {rpo: 15m, rto: 1h}', or nothing can be measured against them")
    }
    return Service(
      name: name, labels: declared.labels, owner: spec.owner, tier: spec.tier, domain: spec.domain,
      objectives: spec.objectives, dependsOn: sortedOnce(dependsOn), stores: sortedOnce(own), start: spec.start,
      stop: spec.stop, ready: spec.ready.compactMap { probe($0, own, declared) },
      validators: validators(spec.validators, own, declared), schema: gates(spec.schema, own, declared),
      duties: spec.duties)
  }

  private mutating func store(
    _ manifest: StoreManifest, of service: ServiceName, in declared: Declared<ServiceManifest>
  ) -> DataStore? {
    guard let name = manifest.name, let driver = manifest.driver else { return nil }
    var repository = onlyRepository
    if let named = manifest.repository {
      repository = exists(named, declared.file) ? named.value : nil
    } else if repository == nil {
      report(
        .noRepository, declared.file, name.mark,
        repositoryNames.isEmpty
          ? "store '\(name.value)' has nowhere to go: there is no repository"
          : "store '\(name.value)' does not say which of the \(repositoryNames.count) repositories is its own",
        repositoryNames.isEmpty ? "add a document of kind Repository" : "add 'repository: …' to the store")
    }
    var dependsOn: [StoreName] = []
    for dependency in manifest.dependsOn where exists(dependency, declared.file) { dependsOn.append(dependency.value) }
    guard let repository else { return nil }
    return DataStore(
      name: name.value, service: service, driver: driver.value, options: manifest.options,
      dependsOn: sortedOnce(dependsOn), repository: repository, start: manifest.start, stop: manifest.stop)
  }

  private mutating func probe(
    _ manifest: ProbeManifest, _ own: [StoreName], _ declared: Declared<ServiceManifest>
  ) -> Probe? {
    let question: Probe.Question
    if let exec = manifest.exec {
      question = .exec(exec)
    } else if let tcp = manifest.tcp {
      question = .tcp(host: tcp.host, port: tcp.port)
    } else if let http = manifest.http, let url = http.url {
      question = .http(url: url, status: http.status)
    } else if let sql = manifest.sql, let query = query(sql, own, declared) {
      question = .sql(store: query.store, query: query.query)
    } else {
      return nil
    }
    return Probe(question, timeout: manifest.timeout, interval: manifest.interval, retries: manifest.retries)
  }

  private mutating func validators(
    _ manifests: [ValidatorManifest], _ own: [StoreName], _ declared: Declared<ServiceManifest>
  ) -> [Validator] {
    var names: Set<CheckName> = []
    var result: [Validator] = []
    for manifest in manifests {
      guard let name = manifest.name else { continue }
      if !names.insert(name.value).inserted {
        report(
          .duplicateName, declared.file, name.mark, "validator '\(name.value)' is there twice", "rename one of them")
      }
      let question: Validator.Question
      if let sql = manifest.sql {
        guard let query = query(sql, own, declared) else { continue }
        question = .sql(store: query.store, query: query.query)
      } else if let exec = manifest.exec {
        question = .exec(exec)
      } else if let http = manifest.http {
        question = .http(url: http)
      } else if let workflow = manifest.workflow {
        guard exists(workflow, declared.file) else { continue }
        question = .workflow(workflow.value)
      } else {
        continue
      }
      guard let expectation = manifest.expectation else { continue }
      result.append(
        Validator(name: name.value, question: question, expectation: expectation, timeout: manifest.timeout))
    }
    return result
  }

  private mutating func gates(
    _ manifests: [SchemaGateManifest], _ own: [StoreName], _ declared: Declared<ServiceManifest>
  ) -> [SchemaGate]? {
    var result: [SchemaGate] = []
    for manifest in manifests {
      guard let source = manifest.source, let query = query(source, own, declared) else { continue }
      result.append(SchemaGate(source: query, accepts: manifest.accepts))
    }
    return result.isEmpty ? nil : result
  }

  private mutating func query(
    _ manifest: QueryManifest, _ own: [StoreName], _ declared: Declared<ServiceManifest>
  ) -> StoreQuery? {
    guard let query = manifest.query else { return nil }
    if let store = manifest.store {
      guard exists(store, declared.file) else { return nil }
      return StoreQuery(store: store.value, query: query)
    }
    if declared.spec.stores.count == 1 { return own.first.map { StoreQuery(store: $0, query: query) } }
    report(
      .missing, declared.file, manifest.mark,
      "the query does not say which store it asks, and the service has \(declared.spec.stores.count)",
      "write 'sql: {store: …, query: …}'")
    return nil
  }

  // MARK: The rest

  private func repository(_ declared: Declared<RepositoryManifest>) -> Repository? {
    guard let location = declared.spec.location, let password = declared.spec.password else { return nil }
    return Repository(
      name: RepositoryName(unchecked: declared.name.value), location: location.value, password: password,
      credentials: declared.spec.credentials.isEmpty ? nil : declared.spec.credentials,
      mirrors: declared.spec.mirrors.isEmpty ? nil : declared.spec.mirrors.map(\.value))
  }

  /// The stores of a selector, and whether all of it leads somewhere.
  private mutating func selected(
    _ stores: [Located<StoreName>], _ services: [Located<ServiceName>], _ file: String
  ) -> [StoreName] {
    var result: [StoreName] = []
    for store in stores where exists(store, file) { result.append(store.value) }
    for service in services where exists(service, file) {
      guard let index = serviceNames[service.value] else { continue }
      result += manifests.services[index].spec.stores.compactMap { $0.name?.value }
    }
    return sortedOnce(result)
  }

  private mutating func group(_ declared: Declared<GroupManifest>) -> ConsistencyGroup {
    let spec = declared.spec
    let stores = selected(spec.stores, spec.services, declared.file)
    if stores.isEmpty, spec.stores.isEmpty {
      report(
        .missing, declared.file, declared.name.mark, "group '\(declared.name.value)' has no stores",
        "add 'stores' or 'services'")
    }
    return ConsistencyGroup(
      name: GroupName(unchecked: declared.name.value), stores: stores, holdBudget: spec.holdBudget,
      onOverBudget: spec.onOverBudget, isImplicit: false)
  }

  /// Without a word about groups, everything is held together: the safe reading.
  private func implicitGroup(_ stores: [DataStore]) -> ConsistencyGroup? {
    guard !stores.isEmpty else { return nil }
    return ConsistencyGroup(
      name: "all", stores: sortedOnce(stores.map(\.name)), holdBudget: .milliseconds(500), onOverBudget: .fail,
      isImplicit: true)
  }

  private mutating func policy(_ declared: Declared<PolicyManifest>, all: [DataStore]) -> BackupPolicy {
    let spec = declared.spec
    var repository = onlyRepository
    if let named = spec.repository {
      repository = exists(named, declared.file) ? named.value : nil
    } else if repository == nil {
      report(
        .noRepository, declared.file, declared.name.mark,
        "policy '\(declared.name.value)' does not say which repository it writes to",
        repositoryNames.isEmpty ? "add a document of kind Repository" : "add 'repository: …'")
    }
    let isOpen = spec.stores.isEmpty && spec.services.isEmpty
    let stores = isOpen ? sortedOnce(all.map(\.name)) : selected(spec.stores, spec.services, declared.file)
    return BackupPolicy(
      name: PolicyName(unchecked: declared.name.value), repository: repository ?? RepositoryName(unchecked: ""),
      schedule: spec.schedule?.value, retention: spec.retention, stores: stores, holdBudget: spec.holdBudget)
  }

  private mutating func invariant(_ declared: Declared<InvariantManifest>) -> Invariant? {
    let spec = declared.spec
    let rule: Invariant.Rule
    if let references = spec.references {
      let from = storeQuery(references.from, declared.file)
      let to = storeQuery(references.to, declared.file)
      guard let from, let to else { return nil }
      rule = .references(from: from, to: to, exact: references.exact)
    } else if let equal = spec.equal {
      let left = storeQuery(equal.left, declared.file)
      let right = storeQuery(equal.right, declared.file)
      guard let left, let right else { return nil }
      rule = .equal(left: left, right: right)
    } else if let constant = spec.constant, let equals = constant.equals {
      let manifest = StoreQueryManifest(store: constant.store, query: constant.query)
      guard let query = storeQuery(manifest, declared.file) else { return nil }
      rule = .constant(query, equals: equals)
    } else {
      return nil
    }
    return Invariant(
      name: CheckName(unchecked: declared.name.value), description: spec.description, severity: spec.severity,
      rule: rule)
  }

  private mutating func drill(_ declared: Declared<DrillManifest>, services all: [Service]) -> Drill {
    let spec = declared.spec
    var services: [ServiceName] = []
    for name in spec.services where exists(name, declared.file) { services.append(name.value) }
    if !spec.stores.isEmpty, spec.level != .store {
      report(
        .exclusive, declared.file, declared.name.mark,
        "drill '\(declared.name.value)' names stores, and practises a \(spec.level.rawValue)",
        "write 'level: store', or name services")
    }
    if !spec.services.isEmpty, spec.level >= .system {
      report(
        .exclusive, declared.file, declared.name.mark,
        "drill '\(declared.name.value)' names services, and brings all of them back",
        "leave them out, or write 'level: service'")
    }
    if spec.level == .region {
      for repository in manifests.repositories where repository.spec.mirrors.isEmpty {
        report(
          .missing, declared.file, declared.name.mark,
          "drill '\(declared.name.value)' is about a mirror, and repository '\(repository.name.value)' has none",
          "add 'mirrors' to the repository, or practise another level")
      }
    }
    var stores = selected(spec.stores, spec.services, declared.file)
    if stores.isEmpty, services.isEmpty { stores = sortedOnce(all.flatMap(\.stores)) }
    if services.isEmpty {
      services = all.filter { spec.stores.isEmpty || !Set($0.stores).isDisjoint(with: stores) }.map(\.name)
    }
    var faults: [Drill.Fault] = []
    for fault in spec.faults {
      guard let kind = fault.kind else { continue }
      if let store = fault.store {
        guard exists(store, declared.file) else { continue }
        if !stores.contains(store.value) {
          report(
            .dangling, declared.file, store.mark,
            "drill '\(declared.name.value)' does not bring '\(store.value)' back", "name one of its stores")
        }
      }
      faults.append(Drill.Fault(kind: kind, store: fault.store?.value, run: fault.run))
    }
    return Drill(
      name: DrillName(unchecked: declared.name.value), level: spec.level, services: sortedOnce(services),
      stores: stores, point: spec.point, window: spec.window, schedule: spec.schedule?.value, jitter: spec.jitter,
      proves: spec.proves, deadline: spec.deadline, faults: faults, places: spec.places)
  }

  private mutating func storeQuery(_ manifest: StoreQueryManifest?, _ file: String) -> StoreQuery? {
    guard let store = manifest?.store, let query = manifest?.query, exists(store, file) else { return nil }
    return StoreQuery(store: store.value, query: query)
  }
}

func sortedOnce<Element: Hashable & Comparable>(_ elements: [Element]) -> [Element] {
  elements.count < 2 ? elements : Set(elements).sorted()
}
