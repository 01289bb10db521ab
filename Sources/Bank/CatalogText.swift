import Core

/// The Salvor catalog of a bank: what there is, what it depends on, and what must hold.
struct CatalogText {
  let layout: Layout
  let engines: EngineFacts?
  /// This program, absolute.
  let program: String

  func render() throws -> String {
    var documents = [repository, group, policy]
    for service in layout.flavour.services { documents.append(try document(service)) }
    documents.append(contentsOf: domains)
    documents.append(contentsOf: invariants)
    return documents.joined(separator: "---\n")
  }

  private func head(_ kind: String, _ name: String) -> String {
    "apiVersion: salvor.dev/v1\nkind: \(kind)\nmetadata:\n  name: \(name)\nspec:\n"
  }

  private var repository: String {
    head("Repository", "vault") + """
        location: \(quoted("local:\(layout.directory)-vault"))
        password: \(quoted("file:\(layout.directory)-vault.password"))

      """
  }

  private var group: String {
    head("ConsistencyGroup", "bank") + """
        services: [\(names(layout.flavour.services.filter { $0 != .gateway }))]
        holdBudget: 500ms

      """
  }

  private func names(_ services: [Service]) -> String { services.map(\.rawValue).joined(separator: ", ") }

  private var policy: String {
    head("BackupPolicy", "frequent") + """
        schedule: every 5m
        retention:
          keepLast: 12
          keepDaily: 7

      """
  }

  private func document(_ service: Service) throws -> String {
    var text = head("Service", service.rawValue)
    text += "  owner: \(owner(service))\n  tier: \(tier(service))\n  domain: \(domain(service))\n"
    text += "  impact: \(impact(service))\n"
    text += "  objectives:\n    rpo: 5m\n    rto: 2m\n"
    let dependencies = dependencies(service)
    if !dependencies.isEmpty { text += "  dependsOn: [\(names(dependencies))]\n" }
    if let store = try store(service) { text += "  stores:\n\(store)" }
    text += """
        start: [\(quoted(program)), serve, \(service.rawValue), --config, \(quoted(layout.configPath(service)))]
        ready:
          - http: \(layout.url(service))/ready
            timeout: 2s
            interval: 200ms
            retries: 100

      """
    let validators = try validators(service)
    return validators.isEmpty ? text : text + "  validators:\n" + validators
  }

  private func store(_ service: Service) throws -> String? {
    let options: [(String, String)]
    let driver: String
    switch try layout.store(service, engines)?.kind {
    case nil: return nil
    case .sqlite:
      driver = "sqlite"
      options = [("path", quoted("\(layout.dataPath(service))/\(service.rawValue).db"))]
    case .files:
      driver = "files"
      let path = layout.dataPath(service)
      options = [
        ("path", quoted(path)), ("lockFile", quoted("\(path)/\(StatementDirectory.lockName)")),
        ("log", quoted("\(path)-log")),
      ]
    case .postgresql:
      let server = try requireEngines().postgresql
      driver = "postgresql"
      options = [
        ("host", quoted(server.host)), ("port", String(server.port)), ("user", server.adminUser),
        ("database", server.database), ("password", quoted("file:\(server.adminPasswordFile)")),
        ("dataDirectory", quoted(server.dataDirectory)), ("runAs", server.runAs),
      ]
    case .redis:
      let server = try requireEngines().redis
      driver = "redis"
      options = [
        ("host", quoted(server.host)), ("port", String(server.port)), ("dataDirectory", quoted(server.dataDirectory)),
        ("configFile", quoted(server.configFile)), ("runAs", server.runAs),
      ]
    case .mariadb:
      let server = try requireEngines().mariadb
      driver = "mariadb"
      options = [
        ("host", quoted(server.host)), ("port", String(server.port)), ("user", server.adminUser),
        ("password", quoted("file:\(server.adminPasswordFile)")), ("dataDirectory", quoted(server.dataDirectory)),
        ("configFile", quoted(server.configFile)), ("runAs", server.runAs),
      ]
    case .nats:
      let server = try requireEngines().nats
      driver = "nats"
      options = [
        ("host", quoted(server.host)), ("port", String(server.port)), ("hold", "process"), ("log", "true"),
        ("storeDirectory", quoted(server.storeDirectory)), ("binary", quoted(server.binary)),
        ("configFile", quoted(server.configFile)), ("runAs", server.runAs),
      ]
    }
    let lines = options.map { "        \($0): \($1)\n" }.joined()
    return "    - name: \(storeName(service))\n      \(driver):\n\(lines)"
  }

  private func requireEngines() throws(BankError) -> EngineFacts {
    guard let engines else { throw .configuration("engines.json is missing: run `salvor-bank engines up` first") }
    return engines
  }

  private func storeName(_ service: Service) -> String { "\(service.rawValue)-data" }

  private func owner(_ service: Service) -> String {
    switch service {
    case .accounts, .ledger: "core-banking@bank.example"
    case .sessions, .notices, .gateway: "channels@bank.example"
    case .events: "platform@bank.example"
    case .statements: "documents@bank.example"
    }
  }

  private func tier(_ service: Service) -> String {
    switch service {
    case .ledger, .accounts: "critical"
    case .gateway, .events: "high"
    case .sessions, .statements, .notices: "normal"
    }
  }

  private func domain(_ service: Service) -> String {
    switch service {
    case .accounts, .ledger, .events: "payments"
    case .sessions, .notices, .gateway: "channels"
    case .statements: "documents"
    }
  }

  private func impact(_ service: Service) -> String {
    switch service {
    case .accounts: "Nobody can pay, and balances are not shown."
    case .ledger: "Nothing is booked; every payment waits."
    case .sessions: "Customers are signed out."
    case .statements: "Statements are missing; payments go on."
    case .gateway: "Customers see an error page."
    case .events: "Other systems don't learn of payments."
    case .notices: "Customers are not told what was booked."
    }
  }

  /// Who answers for which part of the business.
  private var domains: [String] {
    [
      head("Domain", "payments") + """
          approvers: [head of core banking, duty manager]
          escalation:
            - {who: core banking on call, how: "pager core-banking"}
            - {after: 15m, who: head of core banking, how: "+41 00 000 00 01"}
          triggers:
            - payments are refused, or booked twice
            - no-money-appears-or-vanishes fails
          completion:
            - the first payment after the restore is booked

        """,
      head("Domain", "channels") + """
          approvers: [head of channels]
          escalation:
            - {who: channels on call, how: "pager channels"}
          triggers: [customers see an error page]

        """,
      head("Domain", "documents") + """
          approvers: [head of documents]
          escalation:
            - {after: 30m, who: documents on call, how: "pager documents"}
          triggers: [a statement shows what the ledger does not]

        """,
    ]
  }

  private func dependencies(_ service: Service) -> [Service] {
    switch service {
    case .ledger: []
    case .accounts, .sessions, .statements, .events: [.ledger]
    case .notices: [.events]
    case .gateway: layout.flavour.services.filter { $0 != .gateway }
    }
  }
}

// MARK: What must hold

extension CatalogText {
  private func validators(_ service: Service) throws -> String {
    let health = """
          - name: healthy
            http: \(layout.url(service))/health
            matches: '"ok":true'

      """
    switch service {
    case .accounts:
      return health + """
            - name: no-account-is-lost
              sql: SELECT count(*) FROM accounts
              equals: \(quoted(String(layout.accounts)))
            - name: nobody-is-overdrawn
              sql: SELECT id FROM accounts WHERE balance < 0
              empty: true

        """
    case .ledger:
      return health + """
            - name: every-entry-has-an-amount
              sql: SELECT id FROM entries WHERE amount <= 0
              empty: true

        """
    case .notices:
      return health + """
            - name: every-notice-has-an-amount
              sql: SELECT id FROM bank.notices WHERE amount <= 0
              empty: true

        """
    case .sessions, .statements, .events, .gateway: return health
    }
  }

  private var invariants: [String] {
    let total = layout.openingBalanceCents * Int64(layout.accounts)
    let posted = (storeName(.ledger), "SELECT id FROM entries WHERE state = 'posted'")
    let inAccounts = (storeName(.accounts), "SELECT id FROM transfers")
    // Rows are compared whole: whose session, and which transfer.
    let isRedis = layout.flavour == .engines
    let sessions = isRedis ? "SCANHASH session:* last_transfer" : "SELECT customer, last_transfer FROM sessions"
    let owned = "SELECT \(isRedis ? "'session:' || customer" : "customer"), id FROM entries WHERE state = 'posted'"
    // Which file, and every word in it.
    let written =
      "SELECT customer || '/' || id || '.csv', id || ',' || from_account || ',' || to_account || ',' || amount "
      + "FROM entries WHERE state = 'posted'"
    return [
      references(
        "transfers-are-in-the-ledger", "Money that moved was written down before.", inAccounts,
        (storeName(.ledger), "SELECT id FROM entries WHERE state IN ('pending', 'posted')")),
      references("posted-entries-have-moved", "What the ledger says has moved, has moved.", posted, inAccounts),
      references(
        "sessions-show-posted-transfers", "Nobody is shown a transfer that never happened.",
        (storeName(.sessions), sessions), (storeName(.ledger), owned)),
      references(
        "statements-are-of-posted-transfers", "Nothing is on paper that is not in the ledger.",
        (storeName(.statements), "lines */*.csv"), (storeName(.ledger), written)),
      head("Invariant", "no-money-appears-or-vanishes") + """
          description: The sum of all balances never changes.
          constant:
            store: \(storeName(.accounts))
            query: SELECT sum(balance) FROM accounts
            equals: \(quoted(String(total)))

        """,
    ] + (layout.flavour == .engines ? invariantsOfEngines : [])
  }

  /// Each store is left as the effect of one and entered as the cause of another: a cut of any of them that is earlier or
  /// later than the others breaks a rule.
  private var invariantsOfEngines: [String] {
    let events = (storeName(.events), "PAYLOADS \(EventConnection.stream)")
    // The stream keeps the newest only, and notices are written in the order of events but for those under way at once.
    let newest =
      "SELECT CONCAT_WS(',', customer, id, from_account, to_account, amount) FROM "
      + "(SELECT * FROM bank.notices ORDER BY number DESC LIMIT \(EventConnection.keptMessages / 2)) AS newest"
    return [
      references(
        "events-are-of-posted-transfers", "Nobody hears of a transfer that is not in the ledger.", events,
        (
          storeName(.ledger),
          "SELECT concat_ws(',', customer, id, from_account, to_account, amount) FROM entries WHERE state = 'posted'"
        )),
      references(
        "notices-have-their-event", "Whoever is told of a transfer is told what was announced.",
        (storeName(.notices), newest), events),
      references(
        "sessions-show-noticed-transfers", "Nobody sees a transfer before being told of it.",
        (storeName(.sessions), "SCANHASH session:* last_transfer"),
        (storeName(.notices), "SELECT CONCAT('session:', customer), id FROM bank.notices")),
    ]
  }

  private func references(
    _ name: String, _ description: String, _ from: (store: String, query: String), _ to: (store: String, query: String)
  ) -> String {
    head("Invariant", name) + """
        description: \(description)
        references:
          from:
            store: \(from.store)
            query: \(quoted(from.query))
          to:
            store: \(to.store)
            query: \(quoted(to.query))

      """
  }

  /// A YAML double-quoted scalar; JSON's strings are a subset of them.
  private func quoted(_ text: String) -> String {
    (try? CanonicalJSON.text(text)) ?? "\"\""
  }
}
