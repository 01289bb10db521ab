import Core

/// When service moves to another copy of a store, and what must be certain before it does.
package struct FailoverPolicy: Sendable, Equatable, Codable {
  package var name: PolicyName
  /// What replicates; named as the catalog's drivers.
  package var engine: Engine
  /// In the order they were declared; at least two, at most nine.
  package var members: [Member]
  /// Agents beside no engine: they look, they may conduct, they hold nothing.
  package var witnesses: [Member]
  /// `W`: how many standbys have flushed a commit before it is acknowledged; in bounded mode, how many are never further
  /// behind than the bound.
  package var acknowledgements: Int
  package var consent: Consent
  /// What may be lost; nothing at all unless consent is ``Consent/autoBounded``.
  package var lossBound: LossBound?
  package var signals: Signals
  package var budgets: Budgets
  /// While one of them lasts nothing is done by itself.
  package var freezes: [FreezeWindow]
  package var weeklyFreezes: [WeeklyFreeze] = []
  /// Members are being worked on: observed and told, never acted on.
  package var isInMaintenance: Bool
  /// What it is about in the catalog.
  package var store: StoreName?
  package var service: ServiceName?
  /// What else is asked; see ``FailoverCheck``.
  package var checks: [FailoverCheck] = []
  package var healing = FailoverHealing()
  package var group: FailoverGroup?
  package var context = FailoverContext()
  package var practice: FailoverPractice?

  package enum Engine: String, Sendable, Codable, CaseIterable { case postgresql, redis, mariadb }

  package struct Member: Sendable, Equatable, Codable {
    package var name: MemberName
    /// Where its engine takes connections: `host:port`.
    package var address: String
    /// Where its agent answers: `http://host:port`.
    package var agent: String
    /// Higher is preferred among equals; 0 is never promoted.
    package var priority: Int
    /// Where it stands: a group moves to members of one site. Without one it is the member's name.
    package var site: String?

    private enum CodingKeys: String, CodingKey { case name, address, agent, priority, site }

    package init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      name = try container.decode(MemberName.self, forKey: .name)
      address = try container.decodeIfPresent(String.self, forKey: .address) ?? ""
      agent = try container.decodeIfPresent(String.self, forKey: .agent) ?? ""
      priority = try container.decodeIfPresent(Int.self, forKey: .priority) ?? 100
      site = try container.decodeIfPresent(String.self, forKey: .site)
    }

    package init(
      name: MemberName, address: String = "", agent: String = "", priority: Int = 100, site: String? = nil
    ) {
      (self.name, self.address, self.agent, self.priority, self.site) = (name, address, agent, priority, site)
    }

    package var place: String { site ?? name.text }
  }

  package enum Consent: String, Sendable, Codable, CaseIterable {
    /// Nothing is looked at.
    case off
    /// What would be done is recorded, and nothing is done.
    case observe
    /// Everything is made ready, and a person says yes.
    case propose
    /// By itself, if nothing that was acknowledged can be lost.
    case autoZeroLoss = "auto-zero-loss"
    /// By itself, if what can be lost is within the bound.
    case autoBounded = "auto-bounded"
  }

  package struct LossBound: Sendable, Equatable, Codable {
    package var bytes: Int64
    package var duration: Duration

    package init(bytes: Int64, duration: Duration) { (self.bytes, self.duration) = (bytes, duration) }

    private enum CodingKeys: String, CodingKey { case bytes, duration }

    package init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      bytes = try container.decode(Int64.self, forKey: .bytes)
      duration = try container.decode(Duration.self, forKey: .duration)
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(bytes, forKey: .bytes)
      try container.encode(duration, forKey: .duration)
    }
  }

  /// What is taken for a failure.
  package struct Signals: Sendable, Equatable, Codable {
    /// How often every member is asked.
    package var interval: Duration = .milliseconds(200)
    /// Phi, in thousandths: 8000 is one mistake in 10^8 answers.
    package var suspicionThousandths = 8000
    /// How long a silent primary must be silent after it was suspected.
    package var dwell: Duration = .seconds(2)
    /// How long the host may answer that nobody listens; the engine's process is gone.
    package var refusedDwell: Duration = .milliseconds(400)
    /// `k`: how many observers must agree.
    package var observers = 2
    /// How late an observer may be itself before it doubts its own eyes.
    package var doubt: Duration = .milliseconds(400)
    /// How old a report may be.
    package var freshness: Duration = .seconds(1)

    package init() {}

    private enum CodingKeys: String, CodingKey {
      case interval, suspicionThousandths, dwell, refusedDwell, observers, doubt, freshness
    }

    package init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      interval = try container.decodeIfPresent(Duration.self, forKey: .interval) ?? interval
      suspicionThousandths =
        try container.decodeIfPresent(Int.self, forKey: .suspicionThousandths) ?? suspicionThousandths
      dwell = try container.decodeIfPresent(Duration.self, forKey: .dwell) ?? dwell
      refusedDwell = try container.decodeIfPresent(Duration.self, forKey: .refusedDwell) ?? refusedDwell
      observers = try container.decodeIfPresent(Int.self, forKey: .observers) ?? observers
      doubt = try container.decodeIfPresent(Duration.self, forKey: .doubt) ?? doubt
      freshness = try container.decodeIfPresent(Duration.self, forKey: .freshness) ?? freshness
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(interval, forKey: .interval)
      try container.encode(suspicionThousandths, forKey: .suspicionThousandths)
      try container.encode(dwell, forKey: .dwell)
      try container.encode(refusedDwell, forKey: .refusedDwell)
      try container.encode(observers, forKey: .observers)
      try container.encode(doubt, forKey: .doubt)
      try container.encode(freshness, forKey: .freshness)
    }
  }

  /// How long and how often.
  package struct Budgets: Sendable, Equatable, Codable {
    /// How long the right to conduct lasts without being renewed.
    package var lease: Duration = .seconds(5)
    /// How long standbys may take to detach before the failover holds, or is called off if the primary is back.
    package var fence: Duration = .seconds(10)
    /// How long the new primary is watched before all is steady.
    package var observe: Duration = .seconds(10)
    /// Between two failovers nobody asked for.
    package var pause: Duration = .seconds(30)
    /// How long an agent goes on without the lease store and without its standbys before it stops the engine.
    package var trust: Duration = .seconds(5)
    /// How long an engine that ended by itself is left to a failover before its agent starts it again.
    package var restart: Duration = .seconds(10)
    /// How long a standby may be away before commits wait for the others alone, and it no longer counts in a failover.
    package var absence: Duration = .seconds(10)

    package init() {}

    private enum CodingKeys: String, CodingKey { case lease, fence, observe, pause, trust, restart, absence }

    package init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      lease = try container.decodeIfPresent(Duration.self, forKey: .lease) ?? lease
      fence = try container.decodeIfPresent(Duration.self, forKey: .fence) ?? fence
      observe = try container.decodeIfPresent(Duration.self, forKey: .observe) ?? observe
      pause = try container.decodeIfPresent(Duration.self, forKey: .pause) ?? pause
      trust = try container.decodeIfPresent(Duration.self, forKey: .trust) ?? trust
      restart = try container.decodeIfPresent(Duration.self, forKey: .restart) ?? restart
      absence = try container.decodeIfPresent(Duration.self, forKey: .absence) ?? absence
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(lease, forKey: .lease)
      try container.encode(fence, forKey: .fence)
      try container.encode(observe, forKey: .observe)
      try container.encode(pause, forKey: .pause)
      try container.encode(trust, forKey: .trust)
      try container.encode(restart, forKey: .restart)
      try container.encode(absence, forKey: .absence)
    }
  }

  package struct FreezeWindow: Sendable, Equatable, Codable {
    package var from: Timestamp
    package var until: Timestamp

    package init(from: Timestamp, until: Timestamp) { (self.from, self.until) = (from, until) }
  }

  package init(
    name: PolicyName, engine: Engine = .postgresql, members: [Member], witnesses: [Member] = [],
    acknowledgements: Int = 1,
    consent: Consent = .autoZeroLoss, lossBound: LossBound? = nil, signals: Signals = Signals(),
    budgets: Budgets = Budgets(),
    freezes: [FreezeWindow] = [], isInMaintenance: Bool = false
  ) {
    (self.name, self.engine, self.members, self.witnesses) = (name, engine, members, witnesses)
    self.acknowledgements = acknowledgements
    (self.consent, self.lossBound, self.signals, self.budgets) = (consent, lossBound, signals, budgets)
    (self.freezes, self.isInMaintenance) = (freezes, isInMaintenance)
  }

  private enum CodingKeys: String, CodingKey {
    case name, engine, members, witnesses, acknowledgements, consent, lossBound, signals, budgets, freezes,
      weeklyFreezes, isInMaintenance, store, service, checks, healing, group, context, practice
  }

  /// What isn't written is as it is by default.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    name = try container.decode(PolicyName.self, forKey: .name)
    engine = try container.decodeIfPresent(Engine.self, forKey: .engine) ?? .postgresql
    members = try container.decode([Member].self, forKey: .members)
    witnesses = try container.decodeIfPresent([Member].self, forKey: .witnesses) ?? []
    acknowledgements = try container.decodeIfPresent(Int.self, forKey: .acknowledgements) ?? 1
    consent = try container.decodeIfPresent(Consent.self, forKey: .consent) ?? .propose
    lossBound = try container.decodeIfPresent(LossBound.self, forKey: .lossBound)
    signals = try container.decodeIfPresent(Signals.self, forKey: .signals) ?? Signals()
    budgets = try container.decodeIfPresent(Budgets.self, forKey: .budgets) ?? Budgets()
    freezes = try container.decodeIfPresent([FreezeWindow].self, forKey: .freezes) ?? []
    weeklyFreezes = try container.decodeIfPresent([WeeklyFreeze].self, forKey: .weeklyFreezes) ?? []
    isInMaintenance = try container.decodeIfPresent(Bool.self, forKey: .isInMaintenance) ?? false
    store = try container.decodeIfPresent(StoreName.self, forKey: .store)
    service = try container.decodeIfPresent(ServiceName.self, forKey: .service)
    checks = try container.decodeIfPresent([FailoverCheck].self, forKey: .checks) ?? []
    healing = try container.decodeIfPresent(FailoverHealing.self, forKey: .healing) ?? FailoverHealing()
    group = try container.decodeIfPresent(FailoverGroup.self, forKey: .group)
    context = try container.decodeIfPresent(FailoverContext.self, forKey: .context) ?? FailoverContext()
    practice = try container.decodeIfPresent(FailoverPractice.self, forKey: .practice)
  }

  /// `N`: every member can be the primary, so each has all the others for synchronous standbys.
  package var standbys: Int { members.count - 1 }

  /// `R`: of so many standbys that flush nothing more for a primary, and whose logs were read after that, at least one
  /// holds every commit that primary acknowledged, and those left are too few to acknowledge another.
  package var fenceQuorum: Int { standbys - acknowledgements + 1 }

  package var isBounded: Bool { consent == .autoBounded }
}
