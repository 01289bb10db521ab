import Core
import Testing

@testable import Runbooks

@Suite("What a runbook says")
struct PageTests {
  @Test func `the same facts give the same bytes`() throws {
    let one = try Edition(Example.facts()).sealed().files
    let two = try Edition(Example.facts()).sealed().files
    #expect(one == two)
    #expect(
      one.keys.filter { $0.hasSuffix(".md") }.sorted() == [
        "domain-money.md", "domain-shop-front-\(Digest.of("shop front").short).md", "index.md", "system.md",
      ])
    let edition = try CanonicalJSON.decode(Edition.self, from: Array((one["runbook.json"] ?? "").utf8))
    #expect(edition.facts == Example.facts())
    #expect(edition.render() == one.filter { $0.key != "runbook.json" }, "what is kept is all it was made from")
  }

  @Test(arguments: [nil, "money", "shop front"])
  func `every step can be reached, and every step leads on to the end`(_ domain: String?) throws {
    let steps = Example.page(Example.facts(), domain: domain).steps
    let known = Dictionary(steps.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    #expect(known.count == steps.count, "a step is there twice")
    var (seen, open): (Set<String>, [String]) = (["d1"], ["d1"])
    while let id = open.popLast() {
      let step = try #require(known[id])
      #expect(!step.outcomes.isEmpty, "\(id) leads nowhere")
      for target in step.outcomes.map(\.target) where target != Step.end && seen.insert(target).inserted {
        open.append(target)
      }
    }
    #expect(seen == Set(known.keys))
    // From each the end can be reached.
    var ending: Set<String> = [Step.end]
    for _ in steps {
      for step in steps where step.outcomes.contains(where: { ending.contains($0.target) }) { ending.insert(step.id) }
    }
    #expect(ending.isSuperset(of: seen))
  }

  @Test func `a command says what is to be expected of it, whatever comes of it`() {
    for step in Example.page(Example.facts()).steps where step.command != nil {
      let conditions = step.outcomes.map(\.condition)
      let hasSituation = conditions.contains { if case .situation = $0 { true } else { false } }
      #expect(hasSituation || conditions.contains(.otherStatus), "\(step.id)")
      if let last = conditions.firstIndex(of: .otherStatus) { #expect(last == conditions.count - 1, "\(step.id)") }
      #expect(step.who != nil, "\(step.id)")
    }
  }

  @Test func `what nobody has measured or written down is said to be so`() {
    var facts = Example.facts()
    (facts.plans, facts.figures, facts.domains) = ([], [:], [:])
    let text = Markdown().render(Example.page(facts))
    #expect(text.contains("never measured") && text.contains("no drill has shown it"))
    #expect(text.contains("Nobody is named to be called"))
    let known = Markdown().render(Example.page(Example.facts()))
    #expect(known.contains("unproven from") && known.contains("nobody can pay") && known.contains("15 min"))
    #expect(known.contains("read from `file:/etc/salvor/password`"))
  }

  @Test func `a domain that can't come back alone says so, and brings everything back`() {
    var facts = Example.facts()
    facts.plans = [Example.plan([], 20)]
    var own = RunbookFacts.Plan(services: ["ledger"])
    own.refusals = [.init(code: "PLAN-106", message: "invariant 'pages-fit' would break")]
    facts.plans.append(own)
    let page = Example.page(facts, domain: "money")
    #expect(page.steps.first { $0.id == "r1" }?.command == "salvor restore --yes")
    #expect(Markdown().render(page).contains("This domain can't come back alone"))
    let alone = Example.page(Example.facts(), domain: "money")
    #expect(alone.steps.first { $0.id == "r1" }?.command == "salvor restore ledger --yes")
  }

  @Test func `words are quoted so that a shell takes them as they are`() {
    #expect(Shell.line(["a", "b c", "it's", "$(x)", ""]) == #"a 'b c' 'it'\''s' '$(x)' ''"#)
    #expect(Shell.word("/srv/a-b_c.1:2@x") == "/srv/a-b_c.1:2@x")
    #expect(Shell.word("~root") == "'~root'" && Shell.word("a\nb") == "'a\nb'")
  }
}

@Suite("Hostile names")
struct HostileTests {
  static let names = [
    "<script>alert(1)</script>", "a\"><img src=x onerror=y>", "x' onload='y", "|a|b|", "`rm -rf /`", "```\nrm\n```",
    "x\n```\ny",
    "[x](javascript:alert(1))", "<!-- notes:when -->", "--> <b>", "\u{202E}evil", "a\u{0}b\u{1B}[31mred", "&lt;",
    "# head",
    "](x)![y](http://evil.example/z)", "</pre></style><svg onload=x>", "<!-- /notes -->",
    String(repeating: "x", count: 300),
  ]

  static func facts(_ name: String) -> RunbookFacts {
    var facts = Example.facts()
    facts.services[0].duties.owner = name
    facts.services[0].duties.impact = name
    facts.services[0].domain = name
    facts.services[0].duties.approvers = [name]
    facts.services[0].duties.triggers = [name]
    facts.services[0].duties.completion = [.init(check: name)]
    facts.services[0].duties.escalation = [.init(afterSeconds: 60, who: name, how: name)]
    facts.services[0].validators = [.init(name: name, words: name)]
    facts.services[0].ready = [.init(name: name, words: name, command: Shell.line(["test", name]))]
    facts.stores[0].path = "/" + name
    facts.rules[0].words = name
    facts.repositories[0].location = name
    facts.repositories[0].mirrors = [name]
    facts.policies[0].schedule = name
    facts.drills[0].id = name
    facts.plans[0].refusals = []
    return facts
  }

  @Test(arguments: names) func `nothing from a manifest becomes markup`(_ name: String) {
    for (file, text) in Edition(Self.facts(name)).render() {
      #expect(!file.contains("..") && !file.contains("<") && !file.hasPrefix("/"), "\(file)")
      if file.hasSuffix(".html") || file.hasSuffix(".svg") { markup(text, file) }
      if file.hasSuffix(".md") { markdown(text, file) }
    }
  }

  /// Every tag is one of ours, and none has an attribute that runs or loads anything.
  private func markup(_ text: String, _ file: String) {
    let tags: Set<String> = [
      "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "nav", "ul", "li", "a", "main", "section",
      "p",
      "table", "thead", "tbody", "tr", "th", "td", "article", "dl", "dt", "dd", "pre", "code", "strong", "figure",
      "figcaption", "footer", "svg", "path", "polygon", "rect", "text", "aside", "!DOCTYPE",
    ]
    for piece in text.split(separator: "<").dropFirst(text.hasPrefix("<") ? 0 : 1) {
      let tag = piece.prefix { $0 != ">" }
      let name = tag.drop { $0 == "/" }.prefix { !" \n>".contains($0) }
      #expect(tags.contains(String(name)), "\(file): <\(tag)")
      #expect(!tag.contains(" on") && !tag.contains("javascript:"), "\(file): <\(tag)")
      for attribute in [" href=\"", " src=\""] {
        guard let start = tag.range(of: attribute) else { continue }
        let address = tag[start.upperBound...].prefix { $0 != "\"" }
        #expect(address.hasPrefix("#") || address.wholeMatch(of: /[a-z0-9-]+\.html(#.*)?/) != nil, "\(file): \(tag)")
      }
    }
    #expect(!text.contains("<script") && !text.contains("<img") && !text.contains("url("), "\(file)")
    #expect(!text.unicodeScalars.contains { $0.value == 0x202E || ($0.value < 32 && $0.value != 10) }, "\(file)")
  }

  private func markdown(_ text: String, _ file: String) {
    var fence: String?
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      let ticks = String(line.prefix { $0 == "`" })
      if let open = fence {
        if line == open { fence = nil }
        continue
      }
      if ticks.count >= 3 {
        fence = ticks
        continue
      }
      let isOurs = line.hasPrefix("<a id=\"") || line.hasPrefix("<!-- notes:") || line == "<!-- /notes -->"
      // Outside of code nothing begins a tag.
      let bare = line.contains("`") ? String(line).replacing(/`+[^`]*`+/, with: "") : String(line)
      #expect(isOurs || !bare.contains("<"), "\(file): \(line)")
      guard bare.contains("](") else { continue }
      let links = bare.replacing("\\]", with: "")
      #expect(!links.contains(/\]\((?!#|pictures\/|[a-z0-9-]+\.md)/), "\(file): \(line)")
    }
    #expect(fence == nil, "\(file): a fence is left open")
    #expect(Notes(in: text).isEmpty, "\(file)")
  }
}
