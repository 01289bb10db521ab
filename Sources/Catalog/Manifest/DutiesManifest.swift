import Core

/// What the operator wrote about a part of the business.
struct DomainManifest: Sendable {
  var owner: String?
  var impact: String?
  var approvers: [String] = []
  var escalation: [CallManifest] = []
  var triggers: [String] = []
  var completion: [CompletionManifest] = []

  static let table = Table(
    "Domain", "A part of the business, and who answers for it. Services are in it by their `domain`.",
    initial: { DomainManifest() },
    fields: [
      Field("owner", \.owner, Codec<String>.phrase.optional, "Whom to ask about services that name nobody."),
      Field("impact", \.impact, Codec<String>.phrase.optional, "What customers notice while it is away."),
      Field("approvers", \.approvers, Codec<String>.phrase.list, "Who may say yes to what can't be taken back."),
      Field("escalation", \.escalation, CallManifest.table.codec.list, "Whom to call, and when."),
      Field("triggers", \.triggers, Codec<String>.phrase.list, "What is seen when the runbook is to be opened."),
      Field("completion", \.completion, CompletionManifest.codec.list, "What must be so before the work is over."),
    ])

  var duties: Duties {
    Duties(
      impact: impact, approvers: approvers, escalation: escalation.compactMap(\.call), triggers: triggers,
      completion: completion.compactMap(\.check))
  }
}

struct CallManifest: Sendable {
  var after: Duration = .zero
  var who: String?
  var how: String?

  static let table = Table(
    "Call", "Somebody who is called when so much time has passed.", initial: { CallManifest() },
    fields: [
      Field("after", \.after, .duration, default: "`0s`", "From the beginning of the incident."),
      Field("who", \.who, Codec<String>.phrase.optional, required: true, "A person, a team, a role."),
      Field("how", \.how, Codec<String>.phrase.optional, "A number, a channel, a rota."),
    ])

  var call: Duties.Call? { who.map { Duties.Call(after: after, who: $0, how: how) } }
}

struct CompletionManifest: Sendable {
  var text: String?
  var run: Command?

  static let table = Table(
    "Completion", "Something that must be so before the work is over.", initial: { CompletionManifest() },
    fields: [
      Field("check", \.text, Codec<String>.phrase.optional, required: true, "What must be so."),
      Field("run", \.run, Codec<Command>.command.optional, default: "a person looks", "Exit status 0 is yes."),
    ])

  /// The words alone, or with a command.
  static let codec = Codec<CompletionManifest>(.either([.text, .record(table.shape)])) { node, decoding in
    if case .mapping = node.content { return table.read(node, &decoding) }
    return Codec<String>.phrase.read(node, &decoding).map { CompletionManifest(text: $0) }
  }

  var check: Duties.Completion? { text.map { Duties.Completion(check: $0, run: run) } }
}

extension ServiceManifest {
  var duties: Duties? {
    let duties = Duties(
      impact: impact, approvers: approvers, escalation: escalation.compactMap(\.call), triggers: triggers,
      completion: completion.compactMap(\.check))
    return duties.isEmpty ? nil : duties
  }
}
