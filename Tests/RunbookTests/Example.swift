import Core
import Runbooks

/// A small shop: a database, files, a page in front; and what drills came to.
enum Example {
  static let moment = Timestamp(seconds: 1_790_000_000)

  static func facts() -> RunbookFacts {
    var facts = RunbookFacts(
      place: .init(catalog: "/etc/salvor", state: "/var/lib/salvor", toolVersion: "0.1.0"), manifests: Digest.of("a"))
    facts.documents = ["Service ledger": Digest.of("l"), "Service web": Digest.of("w")]
    var ledger = RunbookFacts.Service(name: "ledger", tier: "critical", domain: "money")
    ledger.duties.owner = "core@bank.example"
    ledger.duties.impact = "nobody can pay"
    ledger.stores = ["ledger-db"]
    ledger.start = "/usr/bin/ledger serve"
    ledger.isDaemon = true
    ledger.ready = [.init(name: "ready 1", words: "it answers", command: "test -e /run/ledger")]
    ledger.validators = [.init(name: "whole", words: "nothing is missing")]
    var web = RunbookFacts.Service(name: "web", tier: "normal", domain: "shop front")
    web.dependsOn = ["ledger"]
    web.stores = ["pages"]
    web.ready = [.init(name: "ready 1", words: "it answers", command: "test -e /run/web")]
    facts.services = [ledger, web]
    var database = RunbookFacts.Store(name: "ledger-db", service: "ledger", driver: "sqlite", repository: "main")
    (database.path, database.group, database.followsLog) = ("/srv/ledger.db", "all", true)
    var pages = RunbookFacts.Store(name: "pages", service: "web", driver: "files", repository: "main")
    (pages.path, pages.group) = ("/srv/pages", "all")
    facts.stores = [database, pages]
    var main = RunbookFacts.Repository(
      name: "main", location: "local:/srv/backup", resticLocation: "/srv/backup", password: "file:/etc/salvor/password")
    main.mirrors = ["local:/mnt/backup"]
    facts.repositories = [main]
    facts.groups = [.init(name: "all", stores: ["ledger-db", "pages"])]
    facts.policies = [.init(name: "often", schedule: "every 5m", stores: ["ledger-db", "pages"])]
    facts.rules = [.init(name: "pages-fit", words: "every page is of an entry", stores: ["ledger-db", "pages"])]
    var money = RunbookFacts.Duties(owner: "core@bank.example")
    money.approvers = ["head of payments"]
    money.escalation = [
      .init(afterSeconds: 0, who: "on call", how: "pager"), .init(afterSeconds: 900, who: "the head"),
    ]
    money.triggers = ["payments are refused"]
    money.completion = [
      .init(check: "the first payment is booked"), .init(check: "totals agree", command: "test 1 = 1"),
    ]
    facts.domains = ["money": money]
    facts.figures = ["ledger": figures(20), "web": .init()]
    facts.plans = [plan([], 20), plan(["ledger"], 12), plan(["web"], 8)]
    facts.drills = [drill("drill-1", 20, day: 1)]
    return facts
  }

  static func figures(_ seconds: Double) -> RunbookFacts.Figures {
    var figures = RunbookFacts.Figures()
    (figures.rpoAsked, figures.rpoAtWorst, figures.rtoAsked) = (300, 300, 60)
    (figures.rtoPredicted, figures.rtoMeasured) = (seconds, seconds)
    (figures.provenBy, figures.provenAt, figures.provenUntil) = ("drill-1", moment, moment + .seconds(86_400 * 30))
    return figures
  }

  static func plan(_ services: [String], _ seconds: Double) -> RunbookFacts.Plan {
    var plan = RunbookFacts.Plan(services: services)
    plan.steps = [
      .init(id: "precheck", wave: 0, seconds: 1, basis: "1 run", isCritical: true),
      .init(id: "restore-beside/ledger-db", wave: 1, seconds: seconds - 1, basis: "1 run", isCritical: true),
      .init(id: "restore-beside/pages", wave: 1, seconds: nil, basis: "no history yet", isCritical: false),
    ]
    (plan.seconds, plan.worstSeconds, plan.unmeasuredSteps) = (seconds, seconds * 1.5, 1)
    return plan
  }

  static func drill(_ id: String, _ seconds: Double, day: Int64) -> DrillFact {
    var drill = DrillFact(
      id: id, drill: "weekly", level: "system", at: moment + .seconds(day * 86_400), verdict: "passed")
    drill.services = ["ledger", "web"]
    drill.results = [.init(service: "ledger", rtoSeconds: seconds, rpoSeconds: 10)]
    return drill
  }

  static func page(_ facts: RunbookFacts, domain: String? = nil) -> Page {
    let scope = Scope.all(of: facts).first { $0.domain == domain }
    return RunbookPage(facts, scope ?? Scope.all(of: facts)[0]).page()
  }
}
