import Core

/// Makes the page of one scope out of the facts. Pure: no clock, no chance, nothing read.
package struct RunbookPage {
  package static let format = "salvor.dev/runbook/v1"

  let facts: RunbookFacts
  let scope: Scope
  let duties: RunbookFacts.Duties
  /// Of the scope, from the newest point there was.
  let plan: RunbookFacts.Plan?
  /// The scope can't come back alone: the commands bring everything back.
  let needsAll: Bool

  package init(_ facts: RunbookFacts, _ scope: Scope) {
    (self.facts, self.scope) = (facts, scope)
    duties = scope.duties(facts)
    let own = facts.plan(of: scope.serviceNames)
    needsAll = scope.domain != nil && own.map { !$0.refusals.isEmpty } ?? false
    plan = needsAll ? facts.plan(of: facts.services.map(\.name)) : own
  }

  package func page() -> Page {
    Page(
      title: scope.title,
      sections: [
        when(), people(), impact(), needs(), figures(), way(), detect(), decide(), restore(), completion(),
        afterwards(), rollback(), manual(), pictures(), lessons(),
      ],
      footer: footer())
  }

  /// The services that come back: the scope's, or all.
  var services: [RunbookFacts.Service] { needsAll ? facts.services : scope.services }

  var stores: [RunbookFacts.Store] {
    let own = Set(services.flatMap(\.stores))
    return facts.inOrder(facts.stores.filter { own.contains($0.name) })
  }

  /// What follows `salvor restore`: names, or nothing for all.
  var arguments: [String] {
    scope.domain == nil || needsAll || services.count == facts.services.count ? [] : services.map(\.name).sorted()
  }

  var approver: Phrase {
    if !duties.approvers.isEmpty { return Phrase(duties.approvers.joined(separator: " or ")) }
    let owners = Set(services.compactMap(facts.owner)).sorted()
    return owners.isEmpty ? "nobody is named" : "nobody is named; ask \(owners.joined(separator: ", "))"
  }

  var operatorOnCall: Phrase {
    duties.escalation.first.map { "\($0.who), who is called first" } ?? "whoever is on call"
  }

  // MARK: Before

  private func when() -> Section {
    let triggers = duties.triggers.map { Phrase($0) }
    let places = scope.services.map(\.name).sorted()
    return Section(
      "when", "When to open it",
      [
        .text(
          triggers.isEmpty
            ? "Nobody has written down what is seen when it begins: add \(code: "triggers") to the services or their domain. Open it when one of \(places.listed) does not answer, or its data is wrong."
            : "One of these is enough:"),
        .bullets(triggers),
        .text(
          "Go through the steps from \(link: "D1", to: "#d1") on. Each says what to type, what is to be expected, and where to go then: follow the first row that fits. Write down the time at each step."
        ),
      ].filter { $0 != .bullets([]) })
  }

  private func people() -> Section {
    var blocks: [Block] = []
    if duties.escalation.isEmpty {
      blocks.append(.text("Nobody is named to be called: add \(code: "escalation") to the services or their domain."))
    } else {
      blocks.append(
        .table(
          ["after", "call", "how"],
          duties.escalation.map { call in
            [
              call.afterSeconds == 0 ? "at once" : "\(Duration.seconds(call.afterSeconds).brief)", Phrase(call.who),
              call.how.map { Phrase($0) } ?? "–",
            ]
          }))
    }
    blocks.append(.text("What can't be taken back is approved by: \(approver)."))
    blocks.append(Matrix(facts).block(of: scope.services))
    return Section("people", "Who is called, who decides", blocks)
  }

  private func impact() -> Section {
    let users = facts.services.filter { other in
      !scope.serviceNames.contains(other.name) && other.dependsOn.contains { scope.serviceNames.contains($0) }
    }
    var blocks: [Block] = [
      .table(
        ["service", "tier", "what customers notice", "others that lose it"],
        scope.services.map { service in
          let dependents = facts.services.filter { $0.dependsOn.contains(service.name) }.map(\.name)
          return [
            "\(code: service.name)", Phrase(service.tier),
            facts.impact(of: service).map { Phrase($0) } ?? "nobody has written it down",
            dependents.isEmpty ? "–" : dependents.listed,
          ]
        })
    ]
    if !users.isEmpty {
      blocks.append(.text("Outside of this domain, without it while it is away: \(users.map(\.name).listed)."))
    }
    return Section("impact", "Impact", blocks)
  }

  private func needs() -> Section {
    let repositories = Set(stores.map(\.repository)).sorted().compactMap(facts.repository)
    var rows: [[Phrase]] = [
      ["the catalog", "\(code: facts.place.catalog)"],
      ["Salvor's state: journal, keys, evidence", "\(code: facts.place.state)"],
      [
        "the program",
        "\(code: "salvor") \(facts.place.toolVersion) or later in the \(code: "PATH"), as root; \(code: "curl")",
      ],
    ]
    for repository in repositories {
      rows.append(["repository \(code: repository.name)", "\(code: repository.location)"])
      rows.append([
        "its password",
        "read from \(code: repository.password); whoever has neither that nor the escrow restores nothing",
      ])
      for mirror in repository.mirrors { rows.append(["its copy", "\(code: mirror)"]) }
      if !repository.credentials.isEmpty { rows.append(["what its place asks for", repository.credentials.listed]) }
    }
    let hosts = Set(stores.compactMap(\.host)).sorted()
    if !hosts.isEmpty { rows.append(["hosts of stores", hosts.listed]) }
    return Section("needs", "What is needed", [.table(["what", "where"], rows)])
  }

  // MARK: Figures

  private func figures() -> Section {
    let rows = scope.services.map { service -> [Phrase] in
      let known = facts.figures[service.name] ?? .init()
      return [
        "\(code: service.name)", Self.brief(known.rpoAsked), Self.brief(known.rpoAtWorst), Self.brief(known.rtoAsked),
        known.rtoPredicted == nil ? "never measured" : Self.brief(known.rtoPredicted),
        known.rtoMeasured == nil ? "never measured" : Self.brief(known.rtoMeasured), Self.proof(known),
      ]
    }
    var blocks: [Block] = [
      .table(
        [
          "service", "may lose", "loses at worst", "may be away", "predicted, at worst", "in the newest drill",
          "proven",
        ], rows),
      .text("Predictions are of the 95th percentile of what steps took. \(time(of: plan))"),
    ]
    if let plan, !plan.steps.isEmpty {
      blocks.append(.text("Critical path: \(plan.steps.filter(\.isCritical).map(\.id).listed)."))
    }
    return Section("figures", "How long it takes, and whether that is known", blocks)
  }

  static func brief(_ seconds: Double?) -> Phrase { seconds.map { "\(Duration.seconds($0).brief)" } ?? "–" }

  /// Said so that it stays true when time passes.
  static func proof(_ figures: RunbookFacts.Figures) -> Phrase {
    if figures.hasFailed { return "\(strong: "no"): it did not come back in drill \(code: figures.provenBy ?? "?")" }
    guard let at = figures.provenAt, let until = figures.provenUntil, let drill = figures.provenBy else {
      return "\(strong: "never"): no drill has shown it"
    }
    let (day, end) = (at.format(fractionDigits: 0), until.format(fractionDigits: 0))
    return "by drill \(code: drill) on \(day); unproven from \(end) on"
  }

  /// How long the whole of a plan takes, as far as that is known.
  func time(of plan: RunbookFacts.Plan?) -> Phrase {
    guard let plan, !plan.steps.isEmpty else {
      return "How long the whole takes was never measured: there is no point to plan with yet."
    }
    if plan.unmeasuredSteps == plan.steps.count { return "How long the whole takes was never measured." }
    let known = plan.seconds.map { "\(Duration.seconds($0).brief)" } ?? "?"
    let worst = plan.worstSeconds.map { ", \(Duration.seconds($0).brief) at worst" } ?? ""
    let rest = plan.unmeasuredSteps == 0 ? "" : "; \(plan.unmeasuredSteps) of its steps were never measured"
    return "The whole takes \(known) at the median\(worst)\(rest)."
  }

  /// The time of some steps of the plan, for one step of the runbook.
  func expected(_ prefix: String? = nil) -> Phrase {
    guard let plan else { return "never measured" }
    guard let prefix else {
      guard let seconds = plan.seconds, plan.unmeasuredSteps < plan.steps.count else { return "never measured" }
      return "\(Duration.seconds(seconds).brief), at worst \(Duration.seconds(plan.worstSeconds ?? seconds).brief)"
    }
    let times = plan.steps.filter { $0.id.hasPrefix(prefix) }.compactMap(\.seconds)
    return times.max().map { "\(Duration.seconds($0).brief)" } ?? "never measured"
  }

  // MARK: After

  private func pictures() -> Section {
    Section("pictures", "Pictures", Diagrams(facts).all(of: services, scope.file).map { .drawing($0) })
  }

  private func lessons() -> Section {
    let own = Lesson.all(of: facts).filter { lesson in
      lesson.services.isEmpty || !Set(lesson.services).isDisjoint(with: scope.serviceNames)
    }
    guard !own.isEmpty else { return Section("lessons", "What drills have taught", [.text("Nothing yet.")]) }
    return Section(
      "lessons", "What drills have taught",
      [
        .table(
          ["drill", "learned", "so"],
          own.reversed().prefix(20).map { ["\(code: $0.drill)", Phrase($0.learned), Phrase($0.change)] })
      ])
  }

  func footer() -> [Phrase] {
    [
      "Made by Salvor \(facts.place.toolVersion), format \(code: Self.format). Not to be changed by hand but between the marks of notes.",
      "Manifests \(code: facts.manifests.hex).",
      "Drills: \(facts.drills.count), of which the newest is \(code: facts.drills.last?.id ?? "none"); digest \(code: facts.drillsDigest.hex).",
    ]
  }
}
