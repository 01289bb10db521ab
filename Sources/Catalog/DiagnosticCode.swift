import Core

/// Everything the catalog can have to say; `docs/reference/catalog.md` lists it from here.
package enum DiagnosticCode: String, Sendable, CaseIterable {
  case syntax = "CATALOG-101"
  case limit = "CATALOG-102"
  case unsupportedYAML = "CATALOG-103"
  case duplicateKey = "CATALOG-104"
  case badVersion = "CATALOG-105"
  case unknownKind = "CATALOG-106"
  case unknownField = "CATALOG-107"
  case missing = "CATALOG-108"
  case wrongType = "CATALOG-109"
  case badDuration = "CATALOG-110"
  case badName = "CATALOG-111"
  case secretInline = "CATALOG-112"
  case badValue = "CATALOG-113"
  case exclusive = "CATALOG-114"
  case unknownDriver = "CATALOG-115"
  case badOption = "CATALOG-116"
  case duplicateName = "CATALOG-117"
  case dangling = "CATALOG-118"
  case cycle = "CATALOG-119"
  case twoGroups = "CATALOG-120"
  case noRepository = "CATALOG-121"
  case nothingToProtect = "CATALOG-122"
  case badFailover = "CATALOG-130"
  case tierInversion = "CATALOG-150"
  case noObjectives = "CATALOG-151"
  case repositoryInStore = "CATALOG-152"
  case passwordInRepository = "CATALOG-153"
  case linkedOutsideGroup = "CATALOG-154"
  case shellSyntax = "CATALOG-155"
  case noPolicy = "CATALOG-156"
  case scheduleMissesObjective = "CATALOG-157"
  case nobodyAnswers = "CATALOG-170"
  case emptyDomain = "CATALOG-171"
  case oddFailover = "CATALOG-180"

  package var severity: Diagnostic.Severity {
    switch self {
    case .noObjectives: .note
    case .tierInversion, .repositoryInStore, .passwordInRepository, .linkedOutsideGroup, .shellSyntax, .noPolicy,
      .scheduleMissesObjective, .nobodyAnswers, .emptyDomain, .oddFailover:
      .warning
    default: .error
    }
  }

  /// One sentence for the reference.
  package var help: String {
    switch self {
    case .syntax: "The file is not YAML; nothing after the place is read."
    case .limit: "The file is too large, nested too deep, or its aliases stand for too much."
    case .unsupportedYAML:
      "A form of YAML that manifests don't use: a key that is not a single value, a merge of no mapping."
    case .duplicateKey: "A key is given twice in one mapping."
    case .badVersion: "`apiVersion` is missing or is none this version of Salvor knows."
    case .unknownKind: "`kind` is missing or unknown."
    case .unknownField: "A field that does not exist; the nearest one is suggested."
    case .missing: "A field that is required, or one of several, is not given."
    case .wrongType: "A list, a mapping or a single value where something else belongs."
    case .badDuration: "Not a duration; `500ms`, `30s`, `15m`, `1h30m`, `2d` are. A bare number is refused."
    case .badName: "Not a name: 1 to 63 of `a-z`, `0-9`, `-`, with no `-` at either end."
    case .secretInline:
      "Something other than `file:…`, `env:…` or `command:…` where a secret is referred to; never repeated."
    case .badValue: "A value outside its range or form."
    case .exclusive: "Two fields that exclude each other are given."
    case .unknownDriver: "No driver of that name is in this version of Salvor."
    case .badOption: "An option the driver does not know or requires, or a value of the wrong kind."
    case .duplicateName: "Two things of one kind have the same name; store names are unique in the whole catalog."
    case .dangling: "A name that nothing has."
    case .cycle: "Services or stores that wait for each other; the whole circle is shown."
    case .twoGroups: "A store is in two consistency groups, and can't be held by both."
    case .noRepository: "A store has no repository: there is none, or several and none is named."
    case .nothingToProtect: "The files hold no service."
    case .tierInversion: "A service depends on one of a lower tier."
    case .noObjectives: "A service says neither how much may be lost nor how long it may be away."
    case .repositoryInStore: "A repository lies inside a store, or a store inside a repository."
    case .passwordInRepository: "The password file lies inside the repository or the store it opens or protects."
    case .linkedOutsideGroup:
      "Stores joined by an invariant are not in one group, so no point holds them at one moment."
    case .shellSyntax: "A command holds what only a shell would understand; it is passed on as it is."
    case .noPolicy: "There are policies, and none is about this store."
    case .scheduleMissesObjective: "The store is backed up less often than its service's RPO asks for."
    case .nobodyAnswers: "A critical service has no owner, or nobody is called when it is down."
    case .emptyDomain: "A Domain that no service names."
    case .badFailover: "A failover policy under which nothing could be promised."
    case .oddFailover: "A failover policy that is allowed and hardly what was meant."
    }
  }
}

extension Diagnostic {
  init(_ code: DiagnosticCode, file: String, mark: Mark, _ message: String, _ remedy: String?) {
    self.init(
      code: code.rawValue, severity: code.severity, file: file, line: Int(mark.line), column: Int(mark.column),
      message: message, remedy: remedy)
  }
}
