import Catalog
import Core
import Drills
import Planning
import Runbooks
import StateKit

/// Reads together what a runbook is made from: catalog, plans from the newest points, history, drills, objectives.
package struct RunbookCollector: Sendable {
  private let system: ManagedSystem
  private let journal: any RunJournal
  private let place: RunbookFacts.Place

  package init(_ system: ManagedSystem, journal: any RunJournal, place: RunbookFacts.Place) {
    (self.system, self.journal, self.place) = (system, journal, place)
  }

  /// What the catalog alone says: no repository is opened, nothing is asked.
  package static func manifests(_ catalog: Catalog, place: RunbookFacts.Place) throws(AnyFailure) -> RunbookFacts {
    do {
      var facts = RunbookFacts(place: place, manifests: catalog.digest)
      facts.documents = try documents(catalog)
      facts.services = catalog.services.map { service in RunbookFacts.Service(service, catalog) }
      facts.stores = catalog.stores.map { store in RunbookFacts.Store(store, catalog) }
      facts.repositories = catalog.repositories.map { RunbookFacts.Repository($0) }
      facts.groups = catalog.groups.map { .init(name: $0.name.text, stores: $0.stores.map(\.text)) }
      facts.policies = catalog.policies.map { policy in
        .init(name: policy.name.text, schedule: policy.schedule?.description, stores: policy.stores.map(\.text))
      }
      facts.rules = catalog.invariants.map { rule in
        .init(name: rule.name.text, words: rule.description ?? rule.words, stores: rule.stores.map(\.text))
      }
      for domain in catalog.domains {
        var duties = RunbookFacts.Duties(domain.duties)
        duties.owner = domain.owner
        facts.domains[domain.name.text] = duties
      }
      for service in catalog.services {
        var figures = RunbookFacts.Figures()
        (figures.rpoAsked, figures.rtoAsked) = (service.objectives.rpo?.seconds, service.objectives.rto?.seconds)
        facts.figures[service.name.text] = figures
      }
      return facts
    } catch { throw AnyFailure(error) }
  }

  package func collect() async throws(AnyFailure) -> RunbookFacts {
    do {
      var facts = try Self.manifests(system.catalog, place: place)
      let records = try await DrillHistory(journal, system).list()
      facts.drills = records.map(DrillFact.init)
      let view = try await Objectives(system, journal: journal).view()
      for line in view.services { facts.figures[line.name] = figures(line, records) }
      facts.plans = try await plans(facts)
      return facts
    } catch { throw AnyFailure(error) }
  }

  private static func documents(_ catalog: Catalog) throws -> [String: Digest] {
    var result: [String: Digest] = [:]
    for item in catalog.services { result["Service \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.stores { result["store \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.repositories { result["Repository \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.policies { result["BackupPolicy \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.groups { result["ConsistencyGroup \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.invariants { result["Invariant \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.drills { result["Drill \(item.name)"] = try CanonicalJSON.digest(item) }
    for item in catalog.domains { result["Domain \(item.name)"] = try CanonicalJSON.digest(item) }
    return result
  }

  // MARK: Figures

  private func figures(_ line: Objectives.Line, _ records: [DrillRecord]) -> RunbookFacts.Figures {
    var figures = RunbookFacts.Figures()
    (figures.rpoAsked, figures.rpoAtWorst) = (line.rpoAskedSeconds, line.rpoPredictedSeconds)
    (figures.rtoAsked, figures.rtoPredicted) = (line.rtoAskedSeconds, line.rtoPredictedSeconds)
    figures.rtoMeasured = line.rtoMeasuredSeconds
    guard let name = ServiceName(line.name) else { return figures }
    let proof = DrillProof(of: name, records, now: system.host.time.now())
    (figures.provenAt, figures.provenUntil, figures.hasFailed) = (proof.at, proof.until, proof.state == .failed)
    figures.provenBy =
      records.last { record in
        record.finishedAt == proof.at && record.control == nil && record.services.contains(name)
      }?.id
    figures.bottleneck = DrillTrend(of: name, records).bottleneck
    return figures
  }

  // MARK: Plans

  /// Of everything, of each domain and of each service, from the newest points; none where there are none.
  private func plans(_ facts: RunbookFacts) async throws -> [RunbookFacts.Plan] {
    let worst: PlanInput
    do {
      worst = try await Restore(system, journal: journal).promised().1
    } catch {
      guard AnyFailure(error).report.code == "POINT-203" else { throw error }
      return []
    }
    var likely = worst
    likely.quantile = 0.5
    let all = Set(facts.services.map(\.name))
    var scopes: [Set<String>] = [[]]
    for domain in facts.domainNames { scopes.append(Set(facts.services.filter { $0.domain == domain }.map(\.name))) }
    for service in facts.services { scopes.append([service.name]) }
    var seen: Set<Set<String>> = []
    return scopes.compactMap { names in
      let names = names == all ? [] : names
      guard seen.insert(names).inserted else { return nil }
      return plan(names, likely, worst)
    }
  }

  private func plan(_ names: Set<String>, _ likely: PlanInput, _ worst: PlanInput) -> RunbookFacts.Plan {
    func make(_ input: PlanInput) -> RestorePlan {
      var input = input
      input.services = Set(names.compactMap { ServiceName($0) })
      return RestorePlan.make(input)
    }
    let made = make(likely)
    let critical = Set(made.criticalPath.steps)
    var plan = RunbookFacts.Plan(services: names.sorted())
    plan.steps = made.steps.map { step in
      .init(
        id: step.id, wave: step.wave, seconds: step.predictedSeconds, basis: step.basis,
        isCritical: critical.contains(step.id))
    }
    // The record is written when all is over: nobody waits for it.
    plan.unmeasuredSteps = made.steps.count { $0.predictedSeconds == nil && $0.action != .record }
    plan.seconds = made.steps.isEmpty ? nil : made.criticalPath.seconds
    plan.worstSeconds = made.steps.isEmpty ? nil : make(worst).criticalPath.seconds
    plan.disturbed = made.disturbed.map(\.text)
    plan.refusals = made.refusals.map { .init(code: $0.code, message: $0.message) }
    return plan
  }
}

// MARK: From the catalog

extension RunbookFacts.Duties {
  init(_ duties: DeclaredDuties?) {
    self.init()
    guard let duties else { return }
    (impact, approvers, triggers) = (duties.impact, duties.approvers, duties.triggers)
    escalation = duties.escalation.map { .init(afterSeconds: $0.after.seconds, who: $0.who, how: $0.how) }
    completion = duties.completion.map { .init(check: $0.check, command: $0.run.map(ShellText.line)) }
  }
}

extension RunbookFacts.Service {
  init(_ service: Service, _ catalog: Catalog) {
    self.init(name: service.name.text, tier: service.tier.rawValue, domain: service.domain)
    duties = .init(service.duties)
    duties.owner = service.owner
    (dependsOn, stores) = (service.dependsOn.map(\.text), service.stores.map(\.text))
    ready = service.ready.enumerated().map { number, probe in ShellText.check(probe, "ready \(number + 1)") }
    validators = service.validators.map { ShellText.check($0, catalog) }
    // As `ManagedSystem.unit`: a service with a stop command is started by a command that ends.
    (start, stop) = (service.start.map(ShellText.line), service.stop.map(ShellText.line))
    isDaemon = service.start != nil && service.stop == nil
  }
}

extension RunbookFacts.Store {
  init(_ store: DataStore, _ catalog: Catalog) {
    self.init(
      name: store.name.text, service: store.service.text, driver: store.driver.text, repository: store.repository.text)
    dependsOn = store.dependsOn.map(\.text)
    group = catalog.group(of: store.name)?.name.text
    let options = store.options
    func text(_ names: String...) -> String? {
      names.lazy.compactMap { options[$0]?.string ?? options[$0]?.integer.map { "\($0)" } }.first
    }
    path = text("path", "dataDirectory", "storeDirectory")
    (host, user, runAs, configFile) = (text("host"), text("user"), text("runAs"), text("configFile"))
    port = text("port") ?? text("endpoint")?.split(separator: ":").last.map(String.init)
    let logs: Set<String> = ["postgresql", "mariadb", "redis", "sqlite"]
    followsLog = logs.contains(driver) || (driver == "files" && options["log"] != nil)
  }
}

extension RunbookFacts.Repository {
  init(_ repository: Repository) {
    let restic: String =
      switch repository.location {
      case .local(let path): path
      case .remote: "\(repository.location)"
      }
    self.init(
      name: repository.name.text, location: "\(repository.location)", resticLocation: restic,
      password: "\(repository.password)")
    mirrors = repository.mirrors?.map(\.description) ?? []
    credentials = repository.credentials?.map { "\($0.key) from \($0.value)" }.sorted() ?? []
  }
}

extension Invariant {
  /// For rules that nobody has described.
  fileprivate var words: String {
    switch rule {
    case .references(let from, let to, let exact):
      "every row of '\(from.query)' in \(from.store) is among those of '\(to.query)' in \(to.store)"
        + (exact ? ", and no other is" : "")
    case .equal(let left, let right):
      "'\(left.query)' in \(left.store) and '\(right.query)' in \(right.store) give the same rows"
    case .constant(let query, let equals): "'\(query.query)' in \(query.store) gives \(equals)"
    }
  }
}

extension DrillFact {
  init(_ record: DrillRecord) {
    self.init(
      id: record.id, drill: record.drill.text, level: record.level.rawValue, at: record.finishedAt,
      verdict: record.verdict.rawValue)
    services = record.services.map(\.text)
    fault = record.control?.fault.rawValue
    outcome = record.control?.outcome.rawValue
    faultStore = record.control?.store?.text
    findings = record.findings.map { finding in
      .init(
        stage: finding.stage.rawValue, code: finding.code, summary: finding.summary, stores: finding.stores.map(\.text))
    }
    results = record.results.map {
      .init(service: $0.service.text, rtoSeconds: $0.rtoSeconds, rpoSeconds: $0.rpoSeconds)
    }
  }
}
