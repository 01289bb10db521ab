import DriverContract
import Testing

/// The promises of a store that is held, on a real server.
@Suite("RabbitMQ keeps the driver contract") struct RabbitMQContractTests {
  let contract = DriverContract<RabbitMQFixture>()

  @Test(.timeLimit(.minutes(60))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(60))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
  @Test(.timeLimit(.minutes(60))) func digestIsOfTheContent() async throws { try await contract.digestIsOfTheContent() }
  @Test(.timeLimit(.minutes(60))) func cutIsExact() async throws { try await contract.cutIsExact() }
  @Test(.timeLimit(.minutes(60))) func heldMeansHeld() async throws { try await contract.heldMeansHeld() }
  @Test(.timeLimit(.minutes(60))) func holdLapsesByItself() async throws { try await contract.holdLapsesByItself() }
  @Test(.timeLimit(.minutes(60))) func closeFrees() async throws { try await contract.closeFrees() }
  @Test(.timeLimit(.minutes(60))) func cancellationFrees() async throws { try await contract.cancellationFrees() }
  @Test(.timeLimit(.minutes(60))) func sinkErrorsSurface() async throws { try await contract.sinkErrorsSurface() }
  @Test(.timeLimit(.minutes(60))) func restoreBesideIsProved() async throws {
    try await contract.restoreBesideIsProved()
  }
  @Test(.timeLimit(.minutes(60))) func damageIsFound() async throws { try await contract.damageIsFound() }
  @Test(.timeLimit(.minutes(60))) func swapInAndOut() async throws { try await contract.swapInAndOut() }
  @Test(.timeLimit(.minutes(60))) func swapReplays() async throws { try await contract.swapReplays() }
  @Test(.timeLimit(.minutes(60))) func lostStateComesBack() async throws { try await contract.lostStateComesBack() }
  @Test(.timeLimit(.minutes(60))) func precheckFindsNoSpace() async throws { try await contract.precheckFindsNoSpace() }
  @Test(.timeLimit(.minutes(60))) func precheckFindsReadOnlyTarget() async throws {
    try await contract.precheckFindsReadOnlyTarget()
  }
  @Test(.timeLimit(.minutes(60))) func precheckFindsOtherVersion() async throws {
    try await contract.precheckFindsOtherVersion()
  }
  @Test(.timeLimit(.minutes(60))) func precheckFindsRunningServer() async throws {
    try await contract.precheckFindsRunningServer()
  }
  @Test(.timeLimit(.minutes(60))) func swapIsRefusedWhileInUse() async throws {
    try await contract.swapIsRefusedWhileInUse()
  }
}

/// The promises of a store that nobody holds.
@Suite("RabbitMQ that is not held keeps the driver contract") struct RabbitMQMomentContractTests {
  let contract = DriverContract<RabbitMQMomentFixture>()

  @Test(.timeLimit(.minutes(60))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(60))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
}
