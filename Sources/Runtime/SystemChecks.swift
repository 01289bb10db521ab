import Core
import Recovery
struct SystemChecks { func validate(_ n: ServiceName) async -> [CheckOutcome] { [] }
  func invariants(_ n: Set<CheckName>) async -> [CheckOutcome] { [] } }
extension ManagedSystem { package var checks: SystemChecks { SystemChecks() } }
