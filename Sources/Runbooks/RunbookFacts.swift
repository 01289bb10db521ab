import Core

/// Everything a runbook is made from, as plain values: the same facts give the same bytes.
///
/// Filled by whoever knows catalog, plans, history and drills; kept beside what was made from it, so that what has changed
/// since can be named.
package struct RunbookFacts: Sendable, Equatable, Codable {
  /// Where things stand on the machine that the runbook is followed on.
  package struct Place: Sendable, Equatable, Codable {
    package var catalog: String
    package var state: String
    package var toolVersion: String

    package init(catalog: String, state: String, toolVersion: String) {
      (self.catalog, self.state, self.toolVersion) = (catalog, state, toolVersion)
    }
  }

  package struct Call: Sendable, Equatable, Codable {
    package var afterSeconds: Double
    package var who: String
    package var how: String?

    package init(afterSeconds: Double, who: String, how: String? = nil) {
      (self.afterSeconds, self.who, self.how) = (afterSeconds, who, how)
    }
  }

  /// A question that is put before the work is over.
  package struct Completion: Sendable, Equatable, Codable {
    package var check: String
    /// As typed into a shell; `nil`: a person looks.
    package var command: String?

    package init(check: String, command: String? = nil) { (self.check, self.command) = (check, command) }
  }

  /// Who answers for something, what starts the work and what ends it.
  package struct Duties: Sendable, Equatable, Codable {
    package var owner: String?
    package var impact: String?
    package var approvers: [String] = []
    package var escalation: [Call] = []
    package var triggers: [String] = []
    package var completion: [Completion] = []

    package init(owner: String? = nil) { self.owner = owner }
  }

  package struct Check: Sendable, Equatable, Codable {
    package var name: String
    /// In words: what is asked, and what is right.
    package var words: String
    /// As typed into a shell, ends with status 0 if all is right; `nil` where only Salvor or a person can ask.
    package var command: String?

    package init(name: String, words: String, command: String? = nil) {
      (self.name, self.words, self.command) = (name, words, command)
    }
  }

  package struct Service: Sendable, Equatable, Codable {
    package var name: String
    package var tier: String
    package var domain: String?
    package var duties = Duties()
    package var dependsOn: [String] = []
    package var stores: [String] = []
    package var ready: [Check] = []
    package var validators: [Check] = []
    /// As typed into a shell; `nil`: somebody else starts it.
    package var start: String?
    /// Its start command is the service, and goes on until it is stopped.
    package var isDaemon = false
    package var stop: String?

    package init(name: String, tier: String, domain: String? = nil) {
      (self.name, self.tier, self.domain) = (name, tier, domain)
    }
  }

  package struct Store: Sendable, Equatable, Codable {
    package var name: String
    package var service: String
    package var driver: String
    package var dependsOn: [String] = []
    package var repository: String
    /// `nil`: captured on its own.
    package var group: String?
    /// Where it lives; `nil` where the catalog doesn't say.
    package var path: String?
    package var port: String?
    package var host: String?
    package var user: String?
    package var runAs: String?
    package var configFile: String?
    /// Its log may be followed: between two points less is lost.
    package var followsLog = false

    package init(name: String, service: String, driver: String, repository: String) {
      (self.name, self.service, self.driver, self.repository) = (name, service, driver, repository)
    }
  }

  package struct Repository: Sendable, Equatable, Codable {
    package var name: String
    package var location: String
    /// As restic writes it.
    package var resticLocation: String
    package var mirrors: [String] = []
    /// `file:/path`, `env:NAME`, `command:…`; never what it leads to.
    package var password: String
    package var credentials: [String] = []

    package init(name: String, location: String, resticLocation: String, password: String) {
      (self.name, self.location, self.resticLocation, self.password) = (name, location, resticLocation, password)
    }
  }

  package struct Group: Sendable, Equatable, Codable {
    package var name: String
    package var stores: [String]

    package init(name: String, stores: [String]) { (self.name, self.stores) = (name, stores) }
  }

  package struct Policy: Sendable, Equatable, Codable {
    package var name: String
    package var schedule: String?
    package var stores: [String]

    package init(name: String, schedule: String?, stores: [String]) {
      (self.name, self.schedule, self.stores) = (name, schedule, stores)
    }
  }

  package struct Rule: Sendable, Equatable, Codable {
    package var name: String
    package var words: String
    package var stores: [String]

    package init(name: String, words: String, stores: [String]) {
      (self.name, self.words, self.stores) = (name, words, stores)
    }
  }

  package struct PlanStep: Sendable, Equatable, Codable {
    package var id: String
    package var wave: Int
    package var seconds: Double?
    package var basis: String
    package var isCritical: Bool

    package init(id: String, wave: Int, seconds: Double?, basis: String, isCritical: Bool) {
      (self.id, self.wave, self.seconds, self.basis, self.isCritical) = (id, wave, seconds, basis, isCritical)
    }
  }

  package struct Refusal: Sendable, Equatable, Codable {
    package var code: String
    package var message: String

    package init(code: String, message: String) { (self.code, self.message) = (code, message) }
  }

  /// How some services would come back.
  package struct Plan: Sendable, Equatable, Codable {
    /// Sorted; empty is the whole system.
    package var services: [String]
    package var steps: [PlanStep] = []
    /// Of the critical path, where every step of it was measured.
    package var seconds: Double?
    /// The same at the 95th percentile.
    package var worstSeconds: Double?
    package var unmeasuredSteps = 0
    /// Others that lose it while it is away.
    package var disturbed: [String] = []
    package var refusals: [Refusal] = []

    package init(services: [String]) { self.services = services }

    package var isRunnable: Bool { refusals.isEmpty && !steps.isEmpty }
  }

  package enum Proof: String, Sendable, Codable { case proven, unproven, failed }

  /// What was asked of a service, what is likely, what was shown.
  package struct Figures: Sendable, Equatable, Codable {
    package var rpoAsked: Double?
    package var rpoAtWorst: Double?
    package var rtoAsked: Double?
    package var rtoPredicted: Double?
    package var rtoMeasured: Double?
    /// The newest drill's, when it was made; whether it still counts is a matter of the clock.
    package var provenBy: String?
    package var provenAt: Timestamp?
    package var provenUntil: Timestamp?
    package var hasFailed = false
    package var bottleneck: String?

    package init() {}

    package func proof(at now: Timestamp) -> Proof {
      if hasFailed { return .failed }
      return provenUntil.map { now <= $0 } ?? false ? .proven : .unproven
    }
  }

  package var place: Place
  /// Of the catalog.
  package var manifests: Digest
  /// Of what each document means, by kind and name: what changed can be named.
  package var documents: [String: Digest]
  package var services: [Service]
  package var stores: [Store]
  package var repositories: [Repository]
  package var groups: [Group]
  package var policies: [Policy]
  package var rules: [Rule]
  package var domains: [String: Duties]
  /// Of everything, of each domain, of each service.
  package var plans: [Plan]
  package var figures: [String: Figures]
  /// Oldest first.
  package var drills: [DrillFact]

  package init(place: Place, manifests: Digest) {
    (self.place, self.manifests) = (place, manifests)
    (documents, services, stores, repositories, groups) = ([:], [], [], [], [])
    (policies, rules, domains, plans, figures, drills) = ([], [], [:], [], [:], [])
  }

  /// Of the drills it is based on.
  package var drillsDigest: Digest { (try? CanonicalJSON.digest(drills)) ?? Digest.of("") }

  package func service(_ name: String) -> Service? { services.first { $0.name == name } }
  package func store(_ name: String) -> Store? { stores.first { $0.name == name } }
  package func repository(_ name: String) -> Repository? { repositories.first { $0.name == name } }

  package func plan(of names: [String]) -> Plan? {
    let wanted = names.count == services.count ? [] : names.sorted()
    return plans.first { $0.services == wanted }
  }

  /// Sorted.
  package var domainNames: [String] { Set(services.compactMap(\.domain)).sorted() }
}

/// What a drill came to, as far as a runbook is concerned.
package struct DrillFact: Sendable, Equatable, Codable {
  package struct Finding: Sendable, Equatable, Codable {
    package var stage: String
    package var code: String
    package var summary: String
    package var stores: [String]

    package init(stage: String, code: String, summary: String, stores: [String]) {
      (self.stage, self.code, self.summary, self.stores) = (stage, code, summary, stores)
    }
  }

  package struct Result: Sendable, Equatable, Codable {
    package var service: String
    package var rtoSeconds: Double?
    package var rpoSeconds: Double?

    package init(service: String, rtoSeconds: Double?, rpoSeconds: Double?) {
      (self.service, self.rtoSeconds, self.rpoSeconds) = (service, rtoSeconds, rpoSeconds)
    }
  }

  package var id: String
  package var drill: String
  package var level: String
  package var at: Timestamp
  package var verdict: String
  /// What was broken on purpose, and whether that was noticed.
  package var fault: String?
  package var outcome: String?
  package var faultStore: String?
  package var services: [String]
  package var findings: [Finding]
  package var results: [Result]

  package init(id: String, drill: String, level: String, at: Timestamp, verdict: String) {
    (self.id, self.drill, self.level, self.at, self.verdict) = (id, drill, level, at, verdict)
    (services, findings, results) = ([], [], [])
  }
}
