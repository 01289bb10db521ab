import Core

// The way through an incident that Salvor goes: from the first look to the released state.

extension RunbookPage {
  // MARK: The way

  func way() -> Section {
    let steps = [detect(), decide(), restore(), completion(), afterwards(), rollback(), manual()].flatMap(\.steps)
    let drawing = Diagrams.way(steps, named: scope.file + "-way")
    return Section(
      "way", "The way",
      [
        .text(
          "Corruption is never failed over: a replica, a mirror and a cache have the same wrong data a moment later."),
        .table(
          ["if", "then"],
          [
            ["a service does not answer, and its data was never wrong", "\(link: "P1", to: "#p1"): the newest point"],
            ["data is wrong, and since when is known", "\(link: "P3", to: "#p3"): a point from before"],
            ["data is wrong, and nobody knows since when", "\(link: "P2", to: "#p2"): look at the points"],
            [
              "a host is lost, and a replica of a store is whole",
              "a failover is faster; then come back here for \(link: "C1", to: "#c1")",
            ],
            ["this machine or the catalog is lost", "\(link: "N1", to: "#n1")"],
            ["Salvor itself can't be used", "\(link: "M1", to: "#m1"): stock restic does"],
          ]), .drawing(drawing),
      ])
  }

  // MARK: Detect

  func detect() -> Section {
    var first = Step(
      "d1", "Set up the shell",
      ["All later steps are typed into the same shell, as root."],
      command: """
        export SALVOR_CATALOG=\(Shell.word(facts.place.catalog)) SALVOR_STATE=\(Shell.word(facts.place.state))
        salvor validate
        """,
      outcomes: [
        .init(.status([0], prints: ["valid"]), to: "d2"),
        .init(.status([2], prints: []), "the catalog is gone, or wrong", to: "n1"),
        .init(.otherStatus, "Salvor can't be used", to: "m1"),
      ])
    first.who = operatorOnCall
    var passwords: [String] = []
    for repository in repositories { passwords.append(Self.test(of: repository.password)) }
    var second = Step(
      "d2", "Can the passwords be read?", [],
      command: passwords.joined(separator: " &&\n"),
      outcomes: [
        .init(.status([0], prints: []), to: "d3"),
        .init(.otherStatus, "get it from its keeper, or from the escrow, put it there, and do this again", to: "d2"),
      ])
    second.who = operatorOnCall
    var third = Step(
      "d3", "Who answers?", ["It names the services that don't."], command: answering(scope.services),
      outcomes: [
        .init(.status([0], prints: []), "all answer", to: "d4"), .init(.otherStatus, "somebody doesn't", to: "d5"),
      ])
    third.who = operatorOnCall
    third.time = "some seconds for each service that does not answer"
    let fourth = Step(
      "d4", "Is the data wrong?", rules(),
      outcomes: [
        .init(.situation("the data is wrong"), to: "d5"),
        .init(.situation("nothing is wrong: a false alarm"), "write down what was seen", to: Step.end),
      ])
    let fifth = Step(
      "d5", "Since when?", ["The moment of the first wrong change, not of the first complaint."],
      outcomes: [
        .init(.situation("the data was never wrong, or what is newest is right"), to: "p1"),
        .init(.situation("the data is wrong since a moment that is known"), to: "p3"),
        .init(.situation("the data is wrong, and nobody knows since when"), to: "p2"),
      ])
    return Section("detect", "See what it is", [first, second, third, fourth, fifth, lost()].map { .step($0) })
  }

  /// On an empty machine.
  private func lost() -> Step {
    let repository = repositories.first
    let file = repository.flatMap { $0.password.hasPrefix("file:") ? String($0.password.dropFirst(5)) : nil }
    var step = Step(
      "n1", "Get the catalog back",
      [
        "Repository and password are enough. It is written below the folder this is typed in; \(code: "SALVOR_CATALOG") then says where."
      ],
      command: """
        salvor init --from \(Shell.word(repository?.location ?? "")) --password-file \(Shell.word(file ?? "/path/of/password"))
        export SALVOR_CATALOG="$PWD/salvor"
        salvor validate
        """,
      outcomes: [
        .init(.status([0], prints: ["valid"]), to: "d2"),
        .init(.otherStatus, "a copy of the repository may be whole", to: "m1"),
      ])
    step.who = operatorOnCall
    return step
  }

  var repositories: [RunbookFacts.Repository] { Set(stores.map(\.repository)).sorted().compactMap(facts.repository) }

  private static func test(of password: String) -> String {
    if password.hasPrefix("file:") { return "test -r \(Shell.word(String(password.dropFirst(5))))" }
    if password.hasPrefix("env:") { return "test -n \"${\(password.dropFirst(4))-}\"" }
    return "\(password.dropFirst("command:".count)) >/dev/null"
  }

  /// Asks every service that can be asked, and names those that don't answer.
  func answering(_ services: [RunbookFacts.Service]) -> String {
    var lines = ["answers=0"]
    for service in facts.inOrder(services) {
      for check in service.ready {
        guard let command = check.command else { continue }
        lines.append("\(command) || { echo \(Shell.word("\(service.name) does not answer")); answers=1; }")
      }
    }
    return (lines + ["test \"$answers\" = 0"]).joined(separator: "\n")
  }

  private func rules() -> [Phrase] {
    let own = Set(stores.map(\.name))
    let rules = facts.rules.filter { !own.isDisjoint(with: $0.stores) }
    let checks = scope.services.flatMap { service in service.validators.map { (service.name, $0) } }
    var lines: [Phrase] = ["A replica has the same wrong data: nothing is failed over for it."]
    for rule in rules { lines.append("\(code: rule.name): \(rule.words)") }
    for (service, check) in checks { lines.append("\(code: service), \(code: check.name): \(check.words)") }
    return lines
  }

  // MARK: Decide

  func decide() -> Section {
    let words = ["salvor", "plan", "restore"] + arguments
    var newest = Step(
      "p1", "The newest point", ["Reads every byte of it and touches nothing else."], command: Shell.line(words),
      outcomes: [
        .init(.status([0], prints: ["point "]), "it will do", to: alone.isEmpty ? "r1" : "p4"),
        .init(.status([6], prints: []), "it says what is in the way", to: "p2"),
        .init(.otherStatus, "no point can be read", to: "m1"),
      ])
    newest.who = operatorOnCall
    var older = Step(
      "p2", "What is in the way? Which points?",
      [
        "\(code: "PLAN-106"): what is named would no longer fit what stays as it is; bring everything back.",
        "\(code: "PLAN-110"), \(code: "POINT-204"): the newest points are damaged, or lack a store; an older one, or the copy of the repository.",
        "\(code: "RESTORE-102"): a directory is missing, a disk is full, a server runs: mend what is named.",
      ] + seen(), command: "salvor points",
      outcomes: [
        .init(.situation("a point from before the data was wrong is listed"), to: "p3"),
        .init(.situation("what was in the way is mended"), to: "p1"),
        .init(.situation("no point will do"), "a copy of the repository may be older, or whole", to: "m1"),
      ])
    older.who = operatorOnCall
    var before = Step(
      "p3", "A point from before", ["What was done after it is lost: say so to whoever approves."],
      command: Shell.line(words) + " --at \"$WHEN\"",
      outcomes: [
        .init(.status([0], prints: ["point "]), "it will do", to: "r2"),
        .init(.status([6], prints: []), "it says what is in the way", to: "p2"),
        .init(.otherStatus, "no point can be read", to: "m1"),
      ])
    (before.who, before.approver) = (operatorOnCall, approver)
    before.needs = [("WHEN", "the last moment that was right, in UTC, such as \(code: "2026-11-21T08:00:00Z")")]
    return Section("decide", "Which point, and how much", [newest, older, before].map { .step($0) } + single())
  }

  /// What drills ran into, newest first: it may be in the way again.
  private func seen() -> [Phrase] {
    var codes: Set<String> = []
    return Lesson.all(of: facts).reversed().compactMap { lesson -> Phrase? in
      guard let code = lesson.code, !Set(lesson.services).isDisjoint(with: services.map(\.name)),
        codes.insert(code).inserted, codes.count <= 5
      else { return nil }
      return "\(code: code), in drill \(code: lesson.drill) \(lesson.learned): \(lesson.change)."
    }
  }

  /// Services that can come back alone without breaking what joins them to others.
  var alone: [RunbookFacts.Service] {
    guard services.count > 1 else { return [] }
    return services.filter { service in
      !service.stores.isEmpty && facts.plans.contains { $0.services == [service.name] && $0.isRunnable }
    }
  }

  private func single() -> [Block] {
    guard !alone.isEmpty else {
      return services.count > 1
        ? [
          .text(
            "No service of these can come back alone: what joins their stores would no longer hold. So it is all, or nothing."
          )
        ] : []
    }
    let step = Step(
      "p4", "One service, or all?",
      [
        "The others go on with what they have; nothing joins their stores to these services' but what they ask each other."
      ],
      outcomes: [.init(.situation("several are hurt, or nobody knows"), to: "r1")]
        + alone.map { .init(.situation("only \(code: $0.name) is hurt"), to: "r-\($0.name)") })
    return [.step(step)]
  }

  // MARK: Restore

  private func outcomes() -> [Step.Outcome] {
    [
      .init(.status([0], prints: ["succeeded"]), "all is back", to: "c1"),
      .init(.status([5], prints: ["succeeded"]), "all is back, later or with more lost than was asked", to: "c1"),
      .init(.status([4], prints: []), "what came back was wrong, and the old state is in place again", to: "p2"),
      .init(.status([6], prints: []), "nothing was touched; it says what is in the way", to: "p2"),
      .init(.status([130], prints: []), "it was interrupted", to: "f1"),
      .init(.otherStatus, "it stopped on the way", to: "f1"),
    ]
  }

  private func bringing(_ id: String, _ title: String, _ command: String, _ text: [Phrase]) -> Step {
    var step = Step(id, title, text, command: command, outcomes: outcomes())
    (step.who, step.approver, step.time) = (operatorOnCall, approver, expected())
    return step
  }

  func restore() -> Section {
    let all = Shell.line(["salvor", "restore"] + arguments)
    let text: Phrase =
      "Every store is restored beside its live state and proved there before anything is stopped. If anything fails after that, the old state is put back."
    var blocks: [Block] = []
    if needsAll, let own = facts.plan(of: scope.serviceNames) {
      blocks.append(
        .text(
          "\(strong: "This domain can't come back alone"), so the commands below bring everything back: \(own.refusals.map { Phrase("\($0.message) (\($0.code))") }.joined(separator: "; "))."
        ))
    }
    blocks += [
      .step(bringing("r1", "Bring it back to the newest point", all + " --yes", [text])),
      .step(bringing("r2", "Bring it back to a point from before", all + " --at \"$WHEN\" --yes", [text])),
    ]
    for service in alone {
      let command = Shell.line(["salvor", "restore", service.name]) + " --yes"
      blocks.append(.step(bringing("r-\(service.name)", "Bring \(service.name) back alone", command, [text])))
    }
    var resume = Step(
      "f1", "Go on where it stopped", ["Safe to repeat: what was done is not done again."],
      command: "salvor run resume latest",
      outcomes: [
        .init(.status([0, 5], prints: ["succeeded"]), to: "c1"),
        .init(.status([4], prints: []), "the old state is in place again", to: "p2"),
        .init(.otherStatus, "mend what it names and do this again, or", to: "b1"),
      ])
    (resume.who, resume.time) = (operatorOnCall, expected())
    blocks.append(.step(resume))
    blocks.append(.heading("What Salvor does meanwhile"))
    if let plan, !plan.steps.isEmpty {
      blocks.append(.text("In waves: all of one wave at once, the critical path in bold. \(time(of: plan))"))
      blocks.append(.table(["wave", "step", "expected time", "known from"], plan.steps.map(row)))
    } else {
      blocks.append(
        .text("There was no point to plan with when this was written: \(code: "salvor plan restore") shows it."))
    }
    return Section("restore", "Bring it back", blocks)
  }

  private func row(_ step: RunbookFacts.PlanStep) -> [Phrase] {
    [
      "\(step.wave)", step.isCritical ? "\(strong: step.id)" : "\(code: step.id)",
      step.seconds.map { "\(Duration.seconds($0).brief)" } ?? "never measured", Phrase(step.basis),
    ]
  }

  // MARK: After

  func completion() -> Section {
    var steps: [Step] = []
    var answers = Step(
      "c1", "Does everybody answer?", [], command: answering(services),
      outcomes: [.init(.status([0], prints: []), to: "c2"), .init(.otherStatus, "see why, then", to: "b1")])
    answers.who = operatorOnCall
    steps.append(answers)
    for (index, check) in duties.completion.enumerated() {
      let next = "c\(index + 3)"
      var step = Step("c\(index + 2)", check.check, [], command: check.command)
      step.outcomes =
        check.command == nil
        ? [.init(.situation("it is so"), to: next), .init(.situation("it is not"), to: "b1")]
        : [.init(.status([0], prints: []), to: next), .init(.otherStatus, "it is not so", to: "b1")]
      step.who = operatorOnCall
      steps.append(step)
    }
    var last = Step(
      "c\(duties.completion.count + 2)", "What does the record say?",
      ["Each check that was made, each store that was compared, objectives against what was measured."],
      command: "salvor run show latest",
      outcomes: [.init(.status([0], prints: ["succeeded"]), to: "a1"), .init(.otherStatus, to: "f1")])
    last.who = operatorOnCall
    steps.append(last)
    return Section("completion", "Is it over?", steps.map { .step($0) })
  }

  func afterwards() -> Section {
    var point = Step(
      "a1", "Take a new point", ["So that nobody has to go back further than to now."], command: "salvor backup",
      outcomes: [
        .init(.status([0, 3], prints: ["point "]), to: "a2"),
        .init(.otherStatus, "mend what it names and do this again; until then nothing new is protected", to: "a2"),
      ])
    point.who = operatorOnCall
    let write = Step(
      "a2", "Write it down",
      [
        "When it began, when it was seen, which point, what was lost, what this runbook did not say. The record of the restore is evidence: keep it with the incident."
      ], outcomes: [.init(.situation("written"), to: "a3")])
    let keep = Step(
      "a3", "Give up the state from before?",
      ["It is kept beside the live state, and takes its space. There is no way back after it is given up."],
      outcomes: [
        .init(.situation("all is right, and whoever approves says so"), to: "a4"),
        .init(.situation("not yet"), "come back to it when it is", to: Step.end),
      ])
    var release = Step(
      "a4", "Give up the state from before", [], command: "salvor run release latest --yes",
      outcomes: [
        .init(.status([0], prints: ["released"]), to: Step.end),
        .init(.otherStatus, "nothing hangs on it but space: mend what it names later", to: Step.end),
      ])
    (release.who, release.approver) = (operatorOnCall, approver)
    return Section(
      "afterwards", "Afterwards",
      [point, write, keep, release].map { .step($0) }
        + [.anchor(Step.end), .text("\(strong: "The end"): nothing is left to be done.")])
  }

  func rollback() -> Section {
    var step = Step(
      "b1", "Put the state from before back",
      [
        "What the restore replaced comes back, byte for byte, also if it was damaged: the way back is for a restore that made it worse."
      ], command: "salvor run rollback latest --yes",
      outcomes: [
        .init(.status([0], prints: ["rolledBack"]), "choose another point", to: "p2"),
        .init(.status([6], prints: []), "it was released, or there is nothing to put back", to: "p2"),
        .init(.otherStatus, "Salvor can't be used for it", to: "m1"),
      ])
    (step.who, step.approver, step.time) = (operatorOnCall, approver, expected("swap/"))
    return Section("rollback", "The way back", [.step(step)])
  }
}
