// What the shop needs of Azure Service Bus. It creates none of it itself.
//
//   az deployment group create --resource-group GROUP --template-file deploy/azure/servicebus.bicep --parameters namespace=NAME
//   az servicebus topic authorization-rule keys list --resource-group GROUP --namespace-name NAME --topic-name shop-events \
//     --name shop --query primaryKey --output tsv
//
// BROKER_URL is then servicebus://shop:KEY@NAME.servicebus.windows.net, with the key percent-encoded.
@description('The name of the namespace, unique in Azure.')
param namespace string
param location string = resourceGroup().location

@description('The topic: shop-CELL-events for a shop in a cell.')
param topic string = 'shop-events'

@description('SHOP_DUPLICATE_WINDOW. Duplicate detection cannot be switched on later; the window can be changed.')
param duplicateWindow string = 'PT10M'

@description('SHOP_STREAM_MAX_AGE.')
param maxAge string = 'P7D'

@description('A subscription for each consumer, with the type of its events.')
param consumers array = [
  { name: 'receipts', type: 'order.paid' }
]

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: namespace
  location: location
  sku: { name: 'Standard' } // Basic has no topics
  properties: { minimumTlsVersion: '1.2' }
}

resource events 'Microsoft.ServiceBus/namespaces/topics@2024-01-01' = {
  parent: bus
  name: topic
  properties: {
    requiresDuplicateDetection: true
    duplicateDetectionHistoryTimeWindow: duplicateWindow
    defaultMessageTimeToLive: maxAge
    enablePartitioning: false // ids would be compared only inside a partition
    supportOrdering: true
  }
}

// Send for the relay and for retries of dead letters, Listen for consumers. The shop manages nothing.
resource key 'Microsoft.ServiceBus/namespaces/topics/authorizationRules@2024-01-01' = {
  parent: events
  name: 'shop'
  properties: { rights: [ 'Send', 'Listen' ] }
}

resource subscriptions 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01' = [for consumer in consumers: {
  parent: events
  name: consumer.name
  properties: {
    requiresSession: false // a session would hold back all events of an order behind one that is retried
    lockDuration: 'PT40S' // as long as a consumer may work on an event
    maxDeliveryCount: 500 // the shop counts failures itself; this counts lost locks and restarts
    deadLetteringOnMessageExpiration: true // an event that nobody handled stays visible
    deadLetteringOnFilterEvaluationExceptions: true
  }
}]

// $Default is the rule that a subscription begins with, and lets every event in.
resource filters 'Microsoft.ServiceBus/namespaces/topics/subscriptions/rules@2024-01-01' = [for (consumer, i) in consumers: {
  parent: subscriptions[i]
  name: '$Default'
  properties: {
    filterType: 'CorrelationFilter'
    correlationFilter: { label: consumer.type }
  }
}]

// At start each node publishes one probe twice and counts what arrives here: docs/brokers.md.
resource probe 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01' = {
  parent: events
  name: 'probe'
  properties: {
    defaultMessageTimeToLive: 'PT5M' // of what a node leaves that dies at its start
    deadLetteringOnMessageExpiration: false
  }
}

resource probeFilter 'Microsoft.ServiceBus/namespaces/topics/subscriptions/rules@2024-01-01' = {
  parent: probe
  name: '$Default'
  properties: {
    filterType: 'CorrelationFilter'
    correlationFilter: { label: 'probe' }
  }
}
